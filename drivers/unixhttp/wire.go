package unixhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"ft/drivers"
)

// maxBody bounds a request's body: the largest is a configuration.
const maxBody = 1 << 20

// failure is an error on the wire. Code is empty where no rule was broken.
type failure struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
}

// WriteError answers with err: 409 and its code for a *drivers.Refused, else 500.
func WriteError(w http.ResponseWriter, err error) {
	var refused *drivers.Refused
	if errors.As(err, &refused) {
		write(w, http.StatusConflict, failure{refused.Code, refused.Sentence})
		return
	}
	write(w, http.StatusInternalServerError, failure{Sentence: err.Error()})
}

// WriteBadRequest answers that the request itself made no sense.
func WriteBadRequest(w http.ResponseWriter, err error) {
	write(w, http.StatusBadRequest, failure{Sentence: err.Error()})
}

// WriteNotFound answers that there is no such thing.
func WriteNotFound(w http.ResponseWriter, err error) {
	write(w, http.StatusNotFound, failure{Sentence: err.Error()})
}

// Write answers 200 with v.
func Write(w http.ResponseWriter, v any) { write(w, http.StatusOK, v) }

func write(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"code":"","sentence":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // the reader may have gone; nothing follows from it
}

// Read decodes a request's body into v. An empty body leaves v as it is.
func Read(w http.ResponseWriter, r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v); err != nil {
		return fmt.Errorf("the body of %s %s: %w", r.Method, r.URL.Path, err)
	}
	return nil
}
