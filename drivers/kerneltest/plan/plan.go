// Package plan is what the host and the guest of drivers/kerneltest say to each other:
// the host packs a Plan into the initramfs, the guest's init answers with lines on the
// second serial port.
package plan

// Where things are in the guest.
const (
	File = "/kerneltest.json"
	Port = "/dev/ttyS1"
)

// Plan is what the guest does between boot and power off.
type Plan struct {
	Modules  []string  `json:"modules"` // files, in the order of loading
	Commands []Command `json:"commands"`
}

// Command is a program that the guest's init runs as root and waits for.
type Command struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
}

// Each line of the guest begins with what it is.
const (
	Output = 'o' // a line of the command's standard output or error
	Exit   = 'x' // Result as JSON: the command has ended
	Failed = 'f' // a sentence: the guest could not do its plan, and powers off
	Done   = 'd' // all commands have run
)

// Result is how a command ended.
type Result struct {
	Status int `json:"status"` // of exit(3), or 128 + the signal that killed it
}
