package integration_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/drivers"
	"ft/ftd/api"
)

// pageOn gives the box a status page.
func (b *box) pageOn() (url string) {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	at := ln.Addr().String()
	ln.Close() // it is ftd's now
	file := filepath.Join(b.dir, "ft.toml")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), "[system]\n", "[system]\nstatus_page = \""+at+"\"\n", 1)), 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return "http://" + at
}

// get is the answer of the page's port, "" for none.
func get(url string) (text string, code int) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", 0
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b), resp.StatusCode
}

// The page's port tells what the socket tells, while parts come and go and ftd is killed.
// How the page draws it is tried in a browser, in ftd/statuspage.
func TestStatusPageOfARealBox(t *testing.T) {
	t.Parallel()
	b := newBox(t, legFile(t, legBytes), legFile(t, legBytes))
	url := b.pageOn()
	b.start()
	b.wait("disk0", "duplex")
	await(t, 20*time.Second, "the page", func() bool {
		text, code := get(url + "/")
		return code == 200 && strings.Contains(text, "<!doctype html>")
	})
	now := func() (st api.Status) {
		text, _ := get(url + "/v1/status")
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return st
	}
	metrics := func(want ...string) {
		t.Helper()
		text, _ := get(url + "/metrics")
		for _, w := range want {
			if !strings.Contains(text, "\n"+w+"\n") {
				t.Errorf("the metrics lack %s", w)
			}
		}
	}
	if st := now(); st.System.State != drivers.FaceDuplex || len(st.Devices) != 1 {
		t.Errorf("the page's port says %+v", st.System)
	}
	metrics(`ft_system_state{state="duplex"} 1`, `ft_keeper_up 1`, `ft_keeper_process_starts_total{process="disk0"} 1`,
		`ft_device_driver_state{device="disk0",kind="disk",state="connected"} 1`)

	b.do("bringdown", "pci1/disk0")
	await(t, 20*time.Second, "the page's port to say simplex", func() bool { return now().System.State == drivers.FaceSimplex })
	metrics(`ft_side_state{side="pci1/disk0",module="pci1",device="disk0",state="offline"} 1`,
		`ft_side_wanted{side="pci1/disk0",module="pci1",device="disk0"} 0`, `ft_module_safe_to_pull{module="pci0"} 0`)
	if text, _ := get(url + "/v1/events"); !strings.Contains(text, `"to":"offline"`) || !strings.Contains(text, `{"marker":"live"`) {
		t.Errorf("the events are %.500s", text)
	}
	resp, err := http.Post(url+"/v1/components/pci1/bringup", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a change through the page's port: %s", resp.Status)
	}

	b.killFtd()
	if _, code := get(url + "/"); code != 0 {
		t.Error("something answers for a dead ftd")
	}
	b.start()
	await(t, 20*time.Second, "the page of the next ftd", func() bool { _, code := get(url + "/v1/status"); return code == 200 })
	b.do("bringup", "pci1/disk0")
	b.wait("disk0", "duplex")
	await(t, 20*time.Second, "the page's port to say duplex", func() bool { return now().System.State == drivers.FaceDuplex })
}
