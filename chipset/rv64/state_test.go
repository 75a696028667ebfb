package rv64

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// Every word of a state goes into a hart and comes out of it, and has a name.
func TestStateRoundTrip(t *testing.T) {
	var s State
	r := rand.New(rand.NewPCG(1, 2))
	for i := range s.Words() {
		s.Words()[i] = r.Uint64()
	}
	s.X[0] = 0
	s.Priv, s.Waiting, s.Halted = uint64(Supervisor), 1, 1
	s.TimeNum, s.TimeDen = s.TimeNum>>32, s.TimeDen>>32
	for i := range s.Pmpcfg {
		s.Pmpcfg[i] &= 0xff
	}
	b := newBoard(t)
	b.Hart.SetState(s)
	if got := b.State(); got != s {
		for i, v := range got.Words() {
			if v != s.Words()[i] {
				t.Errorf("%s is %#x, want %#x", WordName(i), v, s.Words()[i])
			}
		}
	}
	digests := map[uint64]string{s.Digest(): "itself"}
	for i := range StateWords {
		other := s
		other.Words()[i] ^= 1 << 63
		d := other.Digest()
		if what, taken := digests[d]; taken {
			t.Errorf("a change of %s has the digest of %s", WordName(i), what)
		}
		digests[d] = WordName(i)
	}
}

// The words are all there is: no field is of another kind.
func TestStateIsWords(t *testing.T) {
	for f := range reflect.TypeFor[State]().Fields() {
		kind := f.Type.Kind()
		if kind == reflect.Array {
			kind = f.Type.Elem().Kind()
		}
		if kind != reflect.Uint64 {
			t.Errorf("%s is of the kind %v", f.Name, kind)
		}
	}
	if got := WordName(0) + WordName(33) + WordName(64); got != "X[0]F[1]PC" {
		t.Errorf("names of words: %s", got)
	}
}
