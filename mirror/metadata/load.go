package metadata

import (
	"errors"
	"fmt"
	"io"
	"unsafe"
)

// Reading a leg's metadata. What does not verify is not guessed: a superblock counts
// only when one of its copies is whole, and a block of a map that is not sound is taken
// for all ones, since "may differ" and "is missed" err on the safe side.

// loadChunk is how much of a map is read at once.
const loadChunk = 256 << 10

// AlignedBlock gives a zeroed buffer of BlockSize bytes, aligned in memory as direct
// I/O wants it.
func AlignedBlock() []byte { return AlignedBlocks(1) }

// AlignedBlocks gives n blocks in one buffer, aligned to BlockSize.
func AlignedBlocks(n int) []byte {
	b := make([]byte, (n+1)*BlockSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (BlockSize - 1)
	return b[skip : skip+n*BlockSize : skip+n*BlockSize]
}

// Load reads and verifies the metadata of a leg of deviceBytes. All reads are whole
// blocks at multiples of BlockSize, into memory that is aligned alike.
//
// ErrNoMetadata: neither superblock copy is ours. ErrDamaged: they are, but none is
// usable, or they contradict each other. ErrVersion: they are of another version.
// ErrGeometry: the leg is too small, or not of the size that it was made with. Any other
// error is that of reading. Only ErrNoMetadata means that nothing of value is known to
// be there. Damage that can be lived with is told in Image.Damage.
func Load(r io.ReaderAt, deviceBytes int64) (*Image, error) {
	device := deviceBytes &^ (BlockSize - 1)
	if device < DeviceBytesMin {
		// No leg of ours was ever that small.
		return nil, fmt.Errorf("%w: %d bytes are too few for a leg", ErrNoMetadata, deviceBytes)
	}
	img := &Image{}
	if err := img.loadSuper(r, device); err != nil {
		return nil, err
	}
	sb := &img.Super
	if sb.DeviceBytes != uint64(device) {
		return nil, fmt.Errorf("%w: the leg was %d bytes when it was made and is %d now: give it its old size back, or use it as a new leg", ErrGeometry, sb.DeviceBytes, device)
	}
	if sb.Staged {
		staged := sb.Clone()
		img.Staged = &staged
		sb.Unserve()
	}
	l, err := sb.Layout()
	if err != nil {
		return nil, fmt.Errorf("%w: superblock with impossible sizes: %w", ErrDamaged, err)
	}
	if sb.DataBytes != uint64(l.DataBytes) {
		return nil, fmt.Errorf("%w: the superblock tells of %d bytes of data where the leg has room for %d", ErrDamaged, sb.DataBytes, l.DataBytes)
	}
	img.Intent, img.Missed = NewBitmap(l.Extents), NewBitmap(l.Regions)
	img.loadMap(r, "write-intent map", l.IntentOff, l.IntentBlocks, img.Intent, func(i int, buf []byte) error {
		return DecodeIntent(l, sb, i, buf, img.Intent)
	})
	img.loadMap(r, "missed-writes bitmap", l.MissedOff, l.MissedBlocks, img.Missed, func(i int, buf []byte) error {
		return DecodeMissed(l, sb, i, buf, img.Missed)
	})
	return img, nil
}

// loadSuper reads both copies and takes the valid one with the higher sequence.
func (img *Image) loadSuper(r io.ReaderAt, device int64) error {
	var copies [2]Superblock
	var errs [2]error
	buf := AlignedBlock()
	for i := range copies {
		off := device - int64(2-i)*BlockSize
		if err := readFull(r, buf, off); err != nil {
			errs[i] = fmt.Errorf("reading superblock copy %d at %d: %w", i, off, err)
		} else if copies[i], err = DecodeSuper(buf); err != nil {
			errs[i] = fmt.Errorf("superblock copy %d at %d: %w", i, off, err)
		}
	}
	switch {
	case errs[0] == nil && errs[1] == nil:
		a, b := &copies[0], &copies[1]
		if !a.sameLeg(b) {
			return fmt.Errorf("%w: the two superblock copies are of different legs: mirror %s leg %s slot %d, and mirror %s leg %s slot %d",
				ErrDamaged, a.Mirror, a.Leg, a.Slot, b.Mirror, b.Leg, b.Slot)
		}
		if a.Sequence == b.Sequence && !a.equal(b) {
			return fmt.Errorf("%w: the two superblock copies have the same sequence %d and differ", ErrDamaged, a.Sequence)
		}
		img.Super = *a
		if b.Sequence > a.Sequence {
			img.Super = *b
		}
		img.Torn = a.Sequence != b.Sequence
	case errs[0] == nil:
		img.Super, img.Torn = copies[0], true
		img.Damage = append(img.Damage, errs[1].Error())
	case errs[1] == nil:
		img.Super, img.Torn = copies[1], true
		img.Damage = append(img.Damage, errs[0].Error())
	case errors.Is(errs[0], ErrNoMetadata) && errors.Is(errs[1], ErrNoMetadata):
		return ErrNoMetadata
	default:
		// The copy that is merely not ours says least.
		if errors.Is(errs[0], ErrNoMetadata) {
			return errs[1]
		}
		if errors.Is(errs[1], ErrNoMetadata) {
			return errs[0]
		}
		return fmt.Errorf("%w; %w", errs[0], errs[1])
	}
	return nil
}

// WriteSuper makes sb, with the next sequence, the superblock of a leg that nothing else is
// writing to: both copies, each stable before the other is touched.
func WriteSuper(w interface {
	io.WriterAt
	Sync() error
}, sb *Superblock) error {
	l, err := sb.Layout()
	if err != nil {
		return err
	}
	sb.Sequence++
	buf := AlignedBlock()
	EncodeSuper(sb, buf)
	for _, off := range l.SuperOff {
		if _, err := w.WriteAt(buf, off); err != nil {
			return err
		}
		if err := w.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// sameLeg says whether both describe the same leg, made with the same sizes.
func (sb *Superblock) sameLeg(o *Superblock) bool {
	return sb.Mirror == o.Mirror && sb.Leg == o.Leg && sb.Slot == o.Slot && sb.sameGeometry(o) && sb.DeviceBytes == o.DeviceBytes
}

// sameGeometry says whether the maps of one leg mean the same places on the other.
func (sb *Superblock) sameGeometry(o *Superblock) bool {
	return sb.DataBytes == o.DataBytes && sb.RegionSize == o.RegionSize && sb.ExtentSize == o.ExtentSize
}

// equal says whether both are stored as the same bytes.
func (sb *Superblock) equal(o *Superblock) bool {
	var a, b [BlockSize]byte
	EncodeSuper(sb, a[:])
	EncodeSuper(o, b[:])
	return a == b
}

// loadMap reads a map of n blocks at off. Where a block cannot be read or does not
// verify, all of its bits are set; how many did not is told in one line, with the first.
func (img *Image) loadMap(r io.ReaderAt, what string, off int64, n int, b *Bitmap, decode func(i int, buf []byte) error) {
	var first error
	bad := 0
	buf := AlignedBlocks(min(n, loadChunk/BlockSize))
	for begin := 0; begin < n; begin += len(buf) / BlockSize {
		end := min(n, begin+len(buf)/BlockSize)
		whole := readFull(r, buf[:(end-begin)*BlockSize], off+int64(begin)*BlockSize)
		for i := begin; i < end; i++ {
			block := buf[(i-begin)*BlockSize:][:BlockSize]
			var err error
			if whole != nil { // find out which of the blocks it was
				err = readFull(r, block, off+int64(i)*BlockSize)
			}
			if err == nil {
				err = decode(i, block)
			}
			if err == nil {
				continue
			}
			if bad++; first == nil {
				first = fmt.Errorf("block %d at %d: %w", i, off+int64(i)*BlockSize, err)
			}
			b.SetRange(i*BitsPerBlock, min((i+1)*BitsPerBlock, b.Len()))
		}
	}
	if bad > 0 {
		img.Damage = append(img.Damage, fmt.Sprintf("%d of %d blocks of the %s did not verify and count as all set (%v)", bad, n, what, first))
	}
}

// readFull reads all of buf or fails: the end of the device within it is an error too.
func readFull(r io.ReaderAt, buf []byte, off int64) error {
	n, err := r.ReadAt(buf, off)
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
