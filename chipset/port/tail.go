package port

import (
	"slices"

	"ft/chipset/lockstep"
)

// Last is the number of the newest command of the stream that was sent; ok is false when
// the ring holds none.
func (c *Chipset) Last() (number uint64, ok bool) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.back(func(message []byte) bool {
		number, ok = streamNumber(message)
		return !ok
	})
	return number, ok
}

// Tail are the commands of the stream that were sent, from a number on, oldest first. ok
// is false when they are not all there any more: their space was used again, the first
// commands that this module got were later ones, or the module has spoilt them.
func (c *Chipset) Tail(from uint64) (commands []lockstep.Command, ok bool) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	start := c.back(func(message []byte) bool {
		n, stream := streamNumber(message)
		if !stream {
			return true
		}
		if n < from {
			ok = len(commands) == 0 // else there is a gap
			return false
		}
		var command lockstep.Command
		if command.Decode(slices.Clone(message)) != nil || len(commands) > 0 && n+1 != commands[len(commands)-1].Number {
			commands, ok = nil, false
			return false
		}
		commands = append(commands, command)
		ok = n == from
		return !ok
	})
	if !ok && !(start && len(commands) == 0) {
		return nil, false
	}
	slices.Reverse(commands)
	return commands, true
}

// back gives all messages that are still in the ring of commands to look, the newest first,
// each valid during the call, until it returns false. start says that it came to the first
// one that was ever sent. It does not go on where the module has written what was not its
// to write.
func (c *Chipset) back(look func(message []byte) bool) (start bool) {
	if c.mem == nil {
		return false
	}
	commands := c.mem.commands()
	oldest := uint64(0)
	if c.reserve > RingBytes {
		oldest = c.reserve - RingBytes
	}
	var buf []byte
	for end := c.head; end > 0; {
		if end < oldest+overhead {
			return false
		}
		n := commands.length(end - 8)
		if n > lockstep.MessageMax || space(int(n)) > end-oldest {
			return false
		}
		begin := end - space(int(n))
		message, _, err := commands.read(begin, end-begin, buf)
		if err != nil || !look(message) {
			return false
		}
		buf, end = message, begin
	}
	return true
}
