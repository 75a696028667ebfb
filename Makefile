# What a person types. `sudo make run` and `sudo make test` are the two commands of a
# new user; both install what they need with apt when it is missing.

GO      ?= $(shell command -v go || ls /usr/local/go/bin/go 2>/dev/null)
BOX     ?= box
PREFIX  ?= /usr/local
DESTDIR ?=
SEEDS   ?= 200
SEED0   ?= 1
MINUTES ?= 10
VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)

# No cgo: one static binary each, the same on every distribution. The version is stamped
# here and not by -buildvcs, which fails where git distrusts the checkout's owner (root
# in a user's tree) or there is no .git at all.
export CGO_ENABLED = 0
# The interpreter's loop (chipset/rv64) is up to a fifth slower where its function begins
# in the middle of a cache line, which otherwise hangs on what is linked before it.
LDFLAGS  = -funcalign=64 -X ft/ftd/api.stamped=$(VERSION)
BUILD    = $(GO) build -buildvcs=false -trimpath -ldflags '$(LDFLAGS)'

.PHONY: all build install uninstall deb run clean-box test test-kernels bench bench-guest sim exam oracle lint race clean needs-run needs-test needs-bench

all: build

# First the user space of the test box's guest, which ftd has embedded.
build:
	GOOS=linux GOARCH=riscv64 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w' -o ftd/testbox/guest/embedded/service ./ftd/testbox/guest/service
	$(BUILD) -o bin/ ./ftd ./ftctl

# A box on loop devices in ./box, until Ctrl-C. Its legs stay there for the next start.
run: needs-run build
	./bin/ftd --testbox $(BOX)

# Removes what a box in ./box left behind that was killed: processes, loop devices,
# network namespaces, eBPF pins. Its legs stay. The next `make run` does the same.
clean-box: build
	./bin/ftd --testbox $(BOX) --clean

# Onto this machine, or below DESTDIR: binaries, units, man pages, completion, and
# /etc/ft/ft.toml where there is none. It starts nothing.
install: build
	ftd/packaging/install '$(DESTDIR)' '$(PREFIX)'

# Takes away what `install` has put there, but not /etc/ft and /var/lib/ft. A box that
# runs is refused.
uninstall:
	ftd/packaging/uninstall '$(DESTDIR)' '$(PREFIX)'

# Packages for Debian, in dist/.
deb:
	GO='$(GO)' VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' ftd/packaging/deb

# Everything that CI runs. Needs root: loop devices, FUSE and mounts are the real ones.
# Tests in guests, which have other kernels under QEMU (drivers/kerneltest), measure time on
# a machine that is slow already: they come after all others, and one at a time.
test: needs-test
	$(GO) vet -buildvcs=false ./...
	# Not from the cache: the integration tests build and run binaries that it does not know of.
	FT_KERNELTEST=skip $(GO) test -buildvcs=false -count 1 -timeout 15m ./...
	$(GUESTS) -short $(GUEST_TESTS)

# All that runs in guests, with what `make test` leaves out for its time; nothing may be missing.
test-kernels: needs-test
	FT_KERNELTEST=require $(GUESTS) -v $(GUEST_TESTS)

GUESTS      = $(GO) test -buildvcs=false -count 1 -p 1 -timeout 30m -run '^TestKernel'
GUEST_TESTS = $$(grep -rl --include='*_test.go' '^func TestKernel[A-Z]' . | xargs -n 1 dirname | sort -u)

# The rows of the table of what must be reached that this kernel can run, as ratios. The
# machine's guest is the test box's, whose user space `build` embeds.
bench: needs-test build
	$(GO) run -buildvcs=false ./mirror/bench
	$(GO) run -buildvcs=false ./bond/bench
	$(GO) run -buildvcs=false -ldflags -funcalign=64 ./chipset/bench

# In guests, which have what this machine's kernel lacks: the mirror on each frontend beside
# md's raid1, and the bond's failovers beside the kernel's own bonding.
bench-guest: needs-bench
	$(GO) run -buildvcs=false ./bond/bench -guest
	$(GO) run -buildvcs=false ./mirror/bench -guest -rounds 1

# More seeds than the tests run: make sim SEEDS=10000 SEED0=1
sim:
	$(GO) test -buildvcs=false -timeout 0 -count 1 -v ./mirror/sim -sim.seeds $(SEEDS) -sim.seed0 $(SEED0)
	$(GO) test -buildvcs=false -timeout 0 -count 1 -v ./ftd/control -run 'TestSimulator$$' -control.seeds $(SEEDS) -control.seed0 $(SEED0)

# What others test disks and file systems with, on faces whose legs fail and whose processes
# die meanwhile: fio, badblocks and our own exerciser, and fsx and fsstress where they are in
# PATH: make exam MINUTES=60
exam: needs-test
	$(GO) test -buildvcs=false -timeout 0 -count 1 -v ./ftd/integration -run 'TestExam$$' -exam.minutes $(MINUTES)

# The hart against QEMU, more seeds than the tests run: make oracle SEEDS=10000 SEED0=1
oracle:
	$(GO) test -buildvcs=false -timeout 0 -count 1 -v ./chipset/rv64/oracle -oracle.seeds $(SEEDS) -oracle.seed0 $(SEED0)

# The translator beside the interpreter, on random programs: make unlike PROGRAMS=1000000 SEED0=1
PROGRAMS ?= 10000
unlike:
	$(GO) test -buildvcs=false -timeout 0 -count 1 -v ./chipset/rv64/unlike -run 'TestPrograms$$' -unlike.programs $(PROGRAMS) -unlike.seed0 $(SEED0)

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt: the files above"; exit 1; }
	$(GO) vet -buildvcs=false ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

# The race detector needs cgo.
race: needs-test
	CGO_ENABLED=1 $(GO) test -buildvcs=false -race -timeout 60m ./...

# The box's directory stays: it holds data.
clean:
	rm -rf bin dist

needs-run needs-test needs-bench: needs-%:
	@GO='$(GO)' .ci/needs $*
