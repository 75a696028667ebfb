package nbd

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// DefaultPort is the protocol's at IANA.
const DefaultPort = "10809"

// Address is where an export is, as doc/uri.md has it: nbd://host:port/export or
// nbd+unix:///export?socket=/path.
type Address struct {
	Network string // tcp or unix
	Host    string // host:port, or the socket's path
	Export  string
}

// IsAddress says whether s is meant to be an address of this protocol, and no path.
func IsAddress(s string) bool {
	return strings.HasPrefix(s, "nbd:") || strings.HasPrefix(s, "nbd+unix:") ||
		strings.HasPrefix(s, "nbds:") || strings.HasPrefix(s, "nbds+unix:")
}

// ParseAddress reads an address. The error says what is wrong with it, without the address.
func ParseAddress(s string) (Address, error) {
	u, err := url.Parse(s)
	if err != nil {
		if e, ok := err.(*url.Error); ok {
			err = e.Err
		}
		return Address{}, fmt.Errorf("it is no URI: %w", err)
	}
	a := Address{Export: strings.TrimPrefix(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Address{}, fmt.Errorf("what is behind the ? cannot be read: %w", err)
	}
	for key := range query {
		if key != "socket" || u.Scheme == "nbd" {
			return Address{}, fmt.Errorf("it has a parameter %q that is not known", key)
		}
	}
	switch {
	case u.Scheme == "nbds" || u.Scheme == "nbds+unix":
		return Address{}, fmt.Errorf("%s: TLS is not available in this version", u.Scheme)
	case u.Opaque != "" || u.Fragment != "" || u.User != nil:
		return Address{}, errors.New("it has parts that do not belong there")
	case strings.ContainsRune(a.Export, 0) || len(a.Export) > stringBytesMax:
		return Address{}, fmt.Errorf("no export can have this name")
	case u.Scheme == "nbd":
		port := u.Port()
		if port == "" {
			port = DefaultPort
		}
		if u.Hostname() == "" {
			return Address{}, fmt.Errorf("it names no host")
		}
		a.Network, a.Host = "tcp", net.JoinHostPort(u.Hostname(), port)
		return a, nil
	case u.Scheme == "nbd+unix":
		if a.Network, a.Host = "unix", query.Get("socket"); !strings.HasPrefix(a.Host, "/") || u.Host != "" {
			return Address{}, fmt.Errorf("its socket must be an absolute path, and there is no host: nbd+unix:///export?socket=/path")
		}
		return a, nil
	}
	return Address{}, fmt.Errorf("%q is no scheme of NBD (nbd, nbd+unix)", u.Scheme)
}

// String is the address in one form, whatever way it was written in.
func (a Address) String() string {
	if a.Network == "unix" {
		return "nbd+unix:///" + url.PathEscape(a.Export) + "?socket=" + strings.ReplaceAll(url.QueryEscape(a.Host), "%2F", "/")
	}
	return "nbd://" + a.Host + "/" + url.PathEscape(a.Export)
}
