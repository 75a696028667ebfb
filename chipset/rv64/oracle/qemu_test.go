package oracle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// qemu finds QEMU, or skips the test.
func qemu(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no oracle here (apt-get install %s): %v; nothing is compared", debian, err)
	}
	return path
}

// qemuUser runs a batch under qemu-riscv64 and returns what is compared.
func qemuUser(t testing.TB, path string, b *batch) ([]byte, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(file, b.code.ELF("start", b.to-base), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, file)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	switch {
	case err != nil:
		return nil, fmt.Errorf("qemu-riscv64: %w %s", err, errs.Bytes())
	case uint64(len(out)) != b.to-b.from:
		return nil, fmt.Errorf("qemu-riscv64 wrote %d bytes, want %d", len(out), b.to-b.from)
	}
	return out, nil
}
