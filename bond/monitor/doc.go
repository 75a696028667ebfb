// Package monitor is the eyes of the bond. It sees and reports, and decides nothing:
//
//   - WatchLinks follows the kernel's own reports of links and addresses (rtnetlink). They
//     are complete, but can be up to a second late: linkwatch (net/core/link_watch.c) lets
//     through one burst a second.
//   - Poller asks each NIC for its carrier every few milliseconds, so that a pulled cable
//     is not a second old when it is seen.
//   - Prober sends ARP and neighbour solicitations out of one NIC, and so sees a path that
//     is dead with its carrier up.
//
// All three work in the network namespace of the process, own their threads and
// goroutines, and end them in Close. Close waits for a call of the owner's function that
// is under way; it must not be called from within it.
package monitor
