package config

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// uncommented is the example as it is with the # taken away from all keys and tables.
func uncommented() string {
	return regexp.MustCompile(`(?m)^#(\S)`).ReplaceAllString(Example, "$1")
}

func TestExampleConfiguresNothing(t *testing.T) {
	c, err := Parse("ft.toml", []byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := Parse("ft.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(empty, c); diff != "" {
		t.Error(diff)
	}
}

func TestExampleIsGood(t *testing.T) {
	if _, err := Parse("ft.toml", []byte(uncommented())); err != nil {
		t.Fatal(err)
	}
}

// TestExampleHasEveryKey asks each table for a key that there is not, and is told those
// that there are.
func TestExampleHasEveryKey(t *testing.T) {
	tables := regexp.MustCompile(`(?m)^\[+(\w+)\]+\n(?s:.*?)(\n\n|\z)`).FindAllString(uncommented(), -1)
	known := regexp.MustCompile(`the keys are (.*)`)
	if _, err := Parse("ft.toml", []byte("[zzzzzzzzzzzz]\n")); err == nil {
		t.Fatal("a table that there is not is taken")
	} else {
		for _, header := range regexp.MustCompile(`\[+\w+\]+`).FindAllString(strings.SplitN(err.Error(), "the tables are", 2)[1], -1) {
			if !strings.Contains(uncommented(), "\n"+header+"\n") {
				t.Errorf("there is a table %s, which example.toml does not show", header)
			}
		}
	}
	for _, table := range tables {
		name, _, _ := strings.Cut(table, "\n")
		_, err := Parse("ft.toml", []byte(strings.TrimSpace(table)+"\nzzzzzzzzzzzz = 1\n"))
		var ps Problems
		if !errors.As(err, &ps) {
			t.Fatalf("%s: %v", name, err)
		}
		m := known.FindStringSubmatch(err.Error())
		if m == nil {
			t.Fatalf("%s: nothing says which keys there are: %v", name, err)
		}
		for _, key := range regexp.MustCompile(`\w+`).FindAllString(m[1], -1) {
			if !strings.Contains(table, "\n"+key+" = ") {
				t.Errorf("%s has the key %s, which example.toml does not show", name, key)
			}
		}
	}
}
