package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// streams carry data over the network and nothing else, for measuring and for looking at
// what a connection goes through.

const streamMax = 1 << 40

// streamOut sends as many bytes as it is asked for: little-endian words of 64 bits, word i
// being mix(seed+8*i).
func streamOut(w http.ResponseWriter, r *http.Request) {
	bytes, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil || bytes < 0 || bytes > streamMax {
		http.Error(w, fmt.Sprintf("bytes=%q: a number up to %d", r.URL.Query().Get("bytes"), int64(streamMax)), http.StatusBadRequest)
		return
	}
	seed, err := strconv.ParseUint(r.URL.Query().Get("seed"), 10, 64)
	if err != nil && r.URL.Query().Has("seed") {
		http.Error(w, fmt.Sprintf("seed=%q: a number", r.URL.Query().Get("seed")), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(bytes, 10))
	var buf [patternBytes]byte
	for at := int64(0); at < bytes; at += int64(len(buf)) {
		fill(buf[:], seed+uint64(at))
		if _, err := w.Write(buf[:min(int64(len(buf)), bytes-at)]); err != nil {
			return // the other side has gone
		}
	}
}

// streamIn takes a body and says how long it was and what its SHA-256 is, or with sum=none
// only the former: a slow hart would else measure how fast it sums.
func streamIn(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sum") == "none" {
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{r.Body}, make([]byte, patternBytes))
		if err != nil {
			fail(w, err)
			return
		}
		fmt.Fprintf(w, "%d bytes\n", n)
		return
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		fail(w, err)
		return
	}
	fmt.Fprintf(w, "%d bytes, sha256 %s\n", n, hexSum(sum))
}
