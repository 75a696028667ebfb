package main

// integer is work of the shape of EEMBC's CoreMark, written anew: each round sorts,
// searches and reverses a linked list, multiplies small matrices, runs a state machine over
// text, and takes CRCs of all results. It fits a processor's first cache; its time goes
// into loads that hit, additions, multiplications and branches, many of which are hard to
// foresee.
func integer(rounds int) uint64 {
	w := newMix()
	sum := foldStart
	for i := range rounds {
		crc := w.list(uint16(i))
		crc = w.matrix(uint16(i), crc)
		crc = w.states(uint16(i), crc)
		sum = fold(sum, uint64(crc))
	}
	return sum
}

const (
	listLength = 64
	matrixSide = 12
	textLength = 384
)

// mix is the memory of the work.
type mix struct {
	nodes      [listLength]node
	head       *node
	a, b       [matrixSide][matrixSide]int16
	c          [matrixSide][matrixSide]int32
	text, copy [textLength]byte
}

type node struct {
	next *node
	data uint16
	at   uint16
}

func newMix() *mix {
	w := &mix{}
	for i := range w.nodes {
		w.nodes[i] = node{data: uint16(i*0x9e37) ^ 0x5a5a, at: uint16(i)}
		if i > 0 {
			w.nodes[i-1].next = &w.nodes[i]
		}
	}
	w.head = &w.nodes[0]
	numbers := [...]string{"5012", "1234", "-874", "+122", "35.54400", ".1234500", "-110.700", "+0.64400",
		"5.500e+3", "-.123e-2", "-87e+832", "+0.6e-12", "T0.3e-1F", "-T.T++Tq", "1T3.4e4z", "34.0e-T^"}
	for at, i := 0, 0; at < textLength; i++ {
		at += copy(w.text[at:], numbers[i*7%len(numbers)])
		if at < textLength {
			w.text[at] = ','
			at++
		}
	}
	return w
}

// list finds, reverses and sorts.
func (w *mix) list(seed uint16) (crc uint16) {
	for i := range uint16(16) {
		n := find(w.head, (seed+i*5)%(listLength+8))
		w.head = reverse(w.head)
		if n == nil {
			crc = crc16(crc, 0xffff)
			continue
		}
		crc = crc16(crc, n.data)
		n.data += i ^ seed
	}
	w.head = sortList(w.head, func(a, b *node) bool { return a.data <= b.data })
	for n := w.head; n != nil; n = n.next {
		crc = crc16(crc, n.data^n.at)
	}
	w.head = sortList(w.head, func(a, b *node) bool { return a.at <= b.at })
	return crc
}

func find(n *node, at uint16) *node {
	for ; n != nil && n.at != at; n = n.next {
	}
	return n
}

func reverse(n *node) (head *node) {
	for n != nil {
		n.next, head, n = head, n, n.next
	}
	return head
}

// sortList merges runs of one, of two, of four …, in place.
func sortList(head *node, inOrder func(a, b *node) bool) *node {
	for run := 1; ; run *= 2 {
		var first node
		tail, rest, merges := &first, head, 0
		for ; rest != nil; merges++ {
			p, q := rest, rest
			left := 0
			for ; left < run && q != nil; left++ {
				q = q.next
			}
			for right := run; left > 0 || right > 0 && q != nil; tail = tail.next {
				if left > 0 && (right == 0 || q == nil || inOrder(p, q)) {
					tail.next, p, left = p, p.next, left-1
				} else {
					tail.next, q, right = q, q.next, right-1
				}
			}
			rest = q
		}
		tail.next = nil
		head = first.next
		if merges <= 1 {
			return head
		}
	}
}

// matrix multiplies by a number, by a row, and matrix by matrix.
func (w *mix) matrix(seed, crc uint16) uint16 {
	for i := range matrixSide {
		for j := range matrixSide {
			v := int16(seed) + int16(i*matrixSide+j)
			w.a[i][j], w.b[i][j] = v&0xff, v*3&0x7f
		}
	}
	factor := int16(seed | 1)
	for i := range matrixSide {
		for j := range matrixSide {
			w.c[i][j] = int32(w.a[i][j]) * int32(factor)
		}
	}
	crc = w.sumC(crc)
	for i := range matrixSide {
		var row int32
		for j := range matrixSide {
			row += int32(w.a[i][j]) * int32(w.b[0][j])
		}
		w.c[i][0] = row
	}
	crc = w.sumC(crc)
	for i := range matrixSide {
		for j := range matrixSide {
			var dot int32
			for k := range matrixSide {
				p := int32(w.a[i][k]) * int32(w.b[k][j])
				dot += p>>2&0xf*(p>>5&0x7f) + p
			}
			w.c[i][j] = dot
		}
	}
	return w.sumC(crc)
}

func (w *mix) sumC(crc uint16) uint16 {
	var sum, last int32
	for i := range matrixSide {
		for _, v := range w.c[i] {
			if sum += v; sum > 1<<20 {
				sum = 0
				last++
			} else if v > last {
				last++
			}
		}
	}
	return crc16(crc, uint16(sum)^uint16(last))
}

// States of the machine that reads numbers.
const (
	start = iota
	sign
	whole
	fraction
	exponentMark
	exponentSign
	exponent
	invalid
	stateCount
)

// states reads the text as numbers, once as it is and once damaged, and counts the states.
func (w *mix) states(seed, crc uint16) uint16 {
	var ends, moves [stateCount]uint16
	w.copy = w.text
	readNumbers(w.copy[:], &ends, &moves)
	for at := int(seed % 13); at < textLength; at += 13 {
		if w.copy[at] != ',' {
			w.copy[at] ^= byte(seed>>1) & 0x1f
		}
	}
	readNumbers(w.copy[:], &ends, &moves)
	for s := range stateCount {
		crc = crc16(crc16(crc, ends[s]), moves[s])
	}
	return crc
}

func readNumbers(text []byte, ends, moves *[stateCount]uint16) {
	state := start
	for _, c := range text {
		if c == ',' {
			ends[state]++
			state = start
			continue
		}
		if next := move(state, c); next != state {
			moves[state]++
			state = next
		}
	}
	ends[state]++
}

func move(state int, c byte) int {
	digit := c >= '0' && c <= '9'
	switch state {
	case start, sign:
		switch {
		case digit:
			return whole
		case c == '.':
			return fraction
		case state == start && (c == '+' || c == '-'):
			return sign
		}
	case whole, fraction:
		switch {
		case digit:
			return state
		case c == '.' && state == whole:
			return fraction
		case c == 'e' || c == 'E':
			return exponentMark
		}
	case exponentMark, exponentSign, exponent:
		switch {
		case digit:
			return exponent
		case state == exponentMark && (c == '+' || c == '-'):
			return exponentSign
		}
	}
	return invalid
}

// crc16 is the CRC with the polynomial 0xa001, bit by bit, of two more bytes.
func crc16(crc, v uint16) uint16 {
	for range 16 {
		low := (crc ^ v) & 1
		crc >>= 1
		v >>= 1
		if low != 0 {
			crc ^= 0xa001
		}
	}
	return crc
}
