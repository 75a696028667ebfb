package fuseloop

// What the way through loop and FUSE costs by itself: fio on a face whose server
// answers at once from memory.
//
//	go test ./mirror/frontend/fuseloop -run '^$' -bench Fio -benchtime 1x

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"testing"
)

func BenchmarkFio(b *testing.B) {
	if _, err := exec.LookPath("fio"); err != nil {
		b.Fatal("fio is needed: apt-get install fio")
	}
	for _, queues := range []int{1, 2} {
		for _, w := range []struct {
			rw, bs string
			depth  int
		}{
			{"randread", "4k", 1}, {"randread", "4k", 16}, {"randread", "4k", 32},
			{"randwrite", "4k", 1}, {"randwrite", "4k", 16}, {"randwrite", "4k", 32},
			{"read", "1M", 4}, {"write", "1M", 4},
		} {
			b.Run(fmt.Sprintf("queues=%d/%s-%s/depth=%d", queues, w.rw, w.bs, w.depth), func(b *testing.B) {
				r := start(b, geometry(b, 512<<20, 512), Options{Queues: queues}, atOnce)
				for b.Loop() {
					iops, usec := fio(b, r.Device(), w.rw, w.bs, w.depth)
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(iops, "IOPS")
					b.ReportMetric(usec, "µs/p99")
				}
			})
		}
	}
}

// fio runs 3 s of a load and returns operations a second and the 99th percentile of
// their time.
func fio(t testing.TB, device, rw, bs string, depth int) (iops, p99 float64) {
	t.Helper()
	cmd := exec.Command("fio", "--name=x", "--filename="+device, "--direct=1", "--ioengine=libaio",
		"--rw="+rw, "--bs="+bs, "--iodepth="+strconv.Itoa(depth), "--runtime=3", "--time_based", "--output-format=json")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	type side struct {
		IOPS float64
		Clat struct{ Percentile map[string]float64 } `json:"clat_ns"`
	}
	var result struct{ Jobs []struct{ Read, Write side } }
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("fio's output: %v\n%s", err, out)
	}
	j := result.Jobs[0]
	s := j.Read
	if s.IOPS == 0 {
		s = j.Write
	}
	return s.IOPS, s.Clat.Percentile["99.000000"] / 1e3
}
