package programs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ft/chipset/programs/plan"
)

// goPackages are those of the standard library whose tests are run, with the tests that are
// left out, for their time or for what the guest has not got.
var goPackages = []struct{ path, skip string }{
	{"math", ""},
	{"math/big", ""},
	{"math/cmplx", ""},
	{"strconv", ""},
	{"sort", ""},
	{"sync/atomic", ""},
	{"hash/crc32", ""},
	{"compress/flate", ""},
	{"crypto/internal/fips140test", "CAST|IntegrityCheck|ACVP"},
	{"reflect", ""},
}

// goTests compiles them, and adds them and their data to the guest's files.
func goTests(t *testing.T, files map[string][]byte) (list []plan.Command) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	for _, p := range goPackages {
		source := filepath.Join(strings.TrimSpace(string(root)), "src", p.path)
		dir := "/go/" + p.path
		if err := addTree(files, filepath.Join(source, "testdata"), dir+"/testdata"); err != nil {
			t.Fatalf("the test data of %s: %v", p.path, err)
		}
		binary, err := os.ReadFile(goBuild(t, "test", p.path))
		if err != nil {
			t.Fatal(err)
		}
		files[dir+"/tests"] = binary
		skip := "NoSuchTest"
		if p.skip != "" {
			skip = p.skip
		}
		list = append(list, plan.Command{
			Name: "Go tests of " + p.path, Script: fmt.Sprintf("cd %s && ./tests -test.short -test.v -test.skip='%s'", dir, skip),
			Rules: []plan.Rule{{Match: `\(\d+\.\d+s\)$`, Put: "(T)"}, {Match: `^=== .*\n`, Put: ""}},
		})
	}
	return list
}

// addTree adds the files of a directory, if it is there.
func addTree(files map[string][]byte, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			files[to+strings.TrimPrefix(path, from)], err = os.ReadFile(path)
		}
		return err
	})
}
