// Package bond is the driver of network interfaces: one face over two NICs,
// active-standby.
//
// The way of things: bond/monitor sees carriers, links and paths; the pure core (core.go)
// decides which port carries the face; bond/datapath makes it so in the kernel;
// bond/announce tells the network; bond/nic prepares the NICs and puts them back as they
// were. driver.go is the shell that joins them and speaks drivers.Driver.
package bond
