package main

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// child is a process that init starts again whenever it ends.
type child struct {
	name  string
	start func() (*os.Process, error)

	pid   int           // 0 while it does not run
	began time.Time     // of its present or last life
	pause time.Duration // before its next life
}

const (
	self      = "/init"
	serveRole = "serve"
	shell     = "/bin/sh"

	healthyAfter = 5 * time.Second // a life longer than this is answered by a start at once
	pauseMin     = 250 * time.Millisecond
	pauseMax     = 16 * time.Second
	endPatience  = 5 * time.Second // for everything to end before the guest goes down
)

var childEnv = []string{
	"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "HOME=/root", "TERM=vt102", "PS1=guest:\\w# ",
}

// runInit is process 1. It does not return: the kernel would panic.
func runInit() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2)
	// Ctrl-Alt-Del and SBI's system suspend have no meaning here.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	err := prepare()
	children := []*child{{name: "shell", start: startShell}}
	if err == nil {
		// First of all: it is what the guest is for.
		children = append([]*child{{name: "service", start: startService}}, children...)
	} else {
		say("%v", err)
		say("there is no service without it; this shell is all there is")
	}
	os.Exit(supervise(children, signals)) // it does not return
}

func startService() (*os.Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return os.StartProcess(self, []string{"service", serveRole}, &os.ProcAttr{
		Dir: dataDir, Env: childEnv, Files: []*os.File{null, os.Stdout, os.Stderr},
		Sys: &unix.SysProcAttr{Setsid: true},
	})
}

// startShell gives a person something to type at: a login of its own on the console, so
// that Ctrl-C and job control work.
func startShell() (*os.Process, error) {
	active, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(active))
	if len(names) == 0 {
		return nil, errors.New("the kernel has no console")
	}
	tty, err := os.OpenFile("/dev/"+names[len(names)-1], os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	return os.StartProcess(shell, []string{"-sh"}, &os.ProcAttr{
		Dir: "/root", Env: childEnv, Files: []*os.File{tty, tty, tty},
		Sys: &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
}

// supervise keeps the children running and reaps whatever is left to process 1, until a
// signal ends the guest. All of it is done by one goroutine.
func supervise(children []*child, signals <-chan os.Signal) int {
	for {
		var next <-chan time.Time
		for _, c := range children {
			if c.pid != 0 {
				continue
			}
			if wait := time.Until(c.began.Add(c.pause)); wait > 0 {
				next = time.After(wait) // looked at again for the others as well
				continue
			}
			c.run()
		}
		select {
		case s := <-signals:
			switch s {
			case unix.SIGCHLD:
				reap(children)
			case unix.SIGINT:
				leave("reboot", unix.LINUX_REBOOT_CMD_RESTART)
			default:
				leave("power off", unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
		case <-next:
		}
	}
}

func (c *child) run() {
	if time.Since(c.began) > healthyAfter {
		c.pause = pauseMin
	} else {
		c.pause = min(2*c.pause, pauseMax)
	}
	c.began = time.Now()
	p, err := c.start()
	if err != nil {
		say("start the %s: %v", c.name, err)
		return
	}
	c.pid = p.Pid
	_ = p.Release() // reaped by number; without this its handle would stay
}

// reap takes all that have ended. Those that are nobody's children are orphans.
func reap(children []*child) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		for _, c := range children {
			if c.pid == pid {
				c.pid = 0
				if c.name != "shell" || !ws.Exited() {
					say("the %s ended (%s); it is started again", c.name, ending(ws))
				}
			}
		}
	}
}

func ending(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return unix.SignalName(ws.Signal())
	}
	return "exit status " + itoa(ws.ExitStatus())
}

// leave ends all processes, unmounts the disk and gives the machine back. It does not
// return; where the firmware cannot do it, the machine stands still, safely.
func leave(how string, command int) {
	say("%s", how)
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGCONT)
	if !allEnd(endPatience) {
		_ = unix.Kill(-1, unix.SIGKILL)
		allEnd(endPatience)
	}
	unix.Sync()
	if err := unmountDisk(); err != nil {
		say("%v", err)
	}
	if err := unix.Reboot(command); err != nil {
		say("%s: %v", how, err)
	}
	select {}
}

// allEnd waits until process 1 has no child any more.
func allEnd(patience time.Duration) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case err == unix.ECHILD:
			return true
		case err == nil && pid == 0:
			time.Sleep(10 * time.Millisecond)
		}
	}
	return false
}
