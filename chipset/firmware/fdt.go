package firmware

import (
	"encoding/binary"
	"fmt"
)

// The flattened device tree of the Devicetree Specification v0.4, chapter 5: format version
// 17, readable by readers of version 16. All numbers in it are big-endian.

const (
	fdtMagic       = 0xd00d_feed
	fdtVersion     = 17
	fdtCompatible  = 16
	fdtHeaderBytes = 40

	fdtBeginNode = 1
	fdtEndNode   = 2
	fdtProp      = 3
	fdtEnd       = 9
)

// node is a node of the tree; children and properties keep their order.
type node struct {
	name     string
	props    []prop
	children []*node
}

type prop struct {
	name  string
	value []byte
}

// child adds a node. The name has its unit address, if it has a reg property.
func (n *node) child(format string, args ...any) *node {
	c := &node{name: fmt.Sprintf(format, args...)}
	n.children = append(n.children, c)
	return c
}

func (n *node) bytes(name string, value []byte) {
	n.props = append(n.props, prop{name, value})
}

// flag is a property whose presence is its value.
func (n *node) flag(name string) { n.bytes(name, nil) }

// cells is a list of 32-bit cells.
func (n *node) cells(name string, values ...uint32) {
	var v []byte
	for _, c := range values {
		v = binary.BigEndian.AppendUint32(v, c)
	}
	n.bytes(name, v)
}

// wide is a list of numbers of two cells each: addresses and sizes.
func (n *node) wide(name string, values ...uint64) {
	var v []byte
	for _, c := range values {
		v = binary.BigEndian.AppendUint64(v, c)
	}
	n.bytes(name, v)
}

// strings is a list of strings.
func (n *node) strings(name string, values ...string) {
	var v []byte
	for _, s := range values {
		v = append(append(v, s...), 0)
	}
	n.bytes(name, v)
}

// flatten writes the tree under root as a blob: header, an empty memory reservation block,
// the structure block, the strings block (each property name once, in order of first use).
func flatten(root *node) []byte {
	w := fdtWriter{offsets: map[string]uint32{}}
	w.node(root)
	w.cell(fdtEnd)

	reservations := uint32(fdtHeaderBytes) // 8-aligned, as it must be
	structure := reservations + 16
	strings := structure + uint32(len(w.structure))
	total := strings + uint32(len(w.strings))
	blob := make([]byte, 0, total)
	for _, v := range []uint32{
		fdtMagic, total, structure, strings, reservations, fdtVersion, fdtCompatible,
		0, // boot_cpuid_phys: hart 0
		uint32(len(w.strings)), uint32(len(w.structure)),
	} {
		blob = binary.BigEndian.AppendUint32(blob, v)
	}
	blob = append(blob, make([]byte, 16)...)
	blob = append(blob, w.structure...)
	return append(blob, w.strings...)
}

type fdtWriter struct {
	structure, strings []byte
	offsets            map[string]uint32 // of a property name in strings; never ranged over
}

func (w *fdtWriter) cell(v uint32) { w.structure = binary.BigEndian.AppendUint32(w.structure, v) }

func (w *fdtWriter) padded(b []byte) {
	w.structure = append(w.structure, b...)
	for len(w.structure)%4 != 0 {
		w.structure = append(w.structure, 0)
	}
}

func (w *fdtWriter) node(n *node) {
	w.cell(fdtBeginNode)
	w.padded(append([]byte(n.name), 0))
	for _, p := range n.props {
		w.cell(fdtProp)
		w.cell(uint32(len(p.value)))
		w.cell(w.name(p.name))
		w.padded(p.value)
	}
	for _, c := range n.children {
		w.node(c)
	}
	w.cell(fdtEndNode)
}

func (w *fdtWriter) name(s string) uint32 {
	offset, known := w.offsets[s]
	if !known {
		offset = uint32(len(w.strings))
		w.offsets[s] = offset
		w.strings = append(append(w.strings, s...), 0)
	}
	return offset
}
