package main

import (
	"errors"
	"fmt"
	"io"
	"net"
)

// chunk is what is written to a connection, and read from it, at once.
const chunk = 64 << 10

// send is the command
//
//	send ADDRESS BYTES
//
// It connects, sends, and waits until the other side, which has it all, closes.
func send(args []string) (string, error) {
	return connected(args, func(c *net.TCPConn, bytes int64) error {
		buf := make([]byte, chunk)
		for left := bytes; left > 0; {
			n, err := c.Write(buf[:min(left, chunk)])
			if left -= int64(n); err != nil {
				return err
			}
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		if n, err := c.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("the other side was to close, and there came %d bytes, %w", n, err)
		}
		return nil
	})
}

// receive is the command
//
//	receive ADDRESS BYTES
//
// It connects, and takes what comes until the other side closes.
func receive(args []string) (string, error) {
	return connected(args, func(c *net.TCPConn, bytes int64) error {
		buf := make([]byte, chunk)
		for got := int64(0); ; {
			n, err := c.Read(buf)
			got += int64(n)
			switch {
			case errors.Is(err, io.EOF) && got == bytes:
				return nil
			case err != nil:
				return fmt.Errorf("after %d bytes: %w", got, err)
			}
		}
	})
}

func connected(args []string, do func(*net.TCPConn, int64) error) (string, error) {
	var address string
	var bytes int64
	if err := scan(args, &address, &bytes); err != nil {
		return "", err
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := do(c.(*net.TCPConn), bytes); err != nil {
		return "", err
	}
	return fmt.Sprint(bytes), nil
}
