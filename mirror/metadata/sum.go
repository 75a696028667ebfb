package metadata

import "hash/crc32"

// SumsPerBlock is how many checksums one block of the table holds; SumSpan is how many
// bytes of data they are for.
const (
	SumsPerBlock = BlockSize / checksumLen
	SumSpan      = SumsPerBlock * BlockSize
)

// NoSum stands in the table where the checksum of a block is not known.
const NoSum uint32 = 0

var zeroSum = crc32.Checksum(make([]byte, BlockSize), castagnoli)

// BlockSum is the checksum of block number n of the data: CRC32C of its bytes, combined
// with its place, so that a block which was written to the wrong place does not pass.
func BlockSum(data []byte, n int64) uint32 { return placed(crc32.Checksum(data, castagnoli), n) }

// ZeroSum is that of a block of zeroes.
func ZeroSum(n int64) uint32 { return placed(zeroSum, n) }

func placed(c uint32, n int64) uint32 {
	const spread = 0x9e3779b1 // 2^32 divided by the golden ratio, odd: no two places of a table collide
	if c ^= uint32(n)*spread ^ uint32(n>>32); c == NoSum {
		c = 1
	}
	return c
}

// GetSum and PutSum are entry i of a block of the table.
func GetSum(table []byte, i int) uint32 { return le.Uint32(table[i*checksumLen:]) }

// PutSum sets it.
func PutSum(table []byte, i int, c uint32) { le.PutUint32(table[i*checksumLen:], c) }
