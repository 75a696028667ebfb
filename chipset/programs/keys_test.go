package programs

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"math/rand/v2"
	"testing"
)

// seedOf makes 32 bytes that are the same in every run.
func seedOf(name string) [32]byte { return sha256.Sum256([]byte("ft chipset programs " + name)) }

// rsaKey makes a private key from a seed: crypto/rsa would use random numbers of its own.
func rsaKey(t *testing.T, name string, bits int) *rsa.PrivateKey {
	t.Helper()
	source := rand.NewChaCha8(seedOf(name))
	one, exponent := big.NewInt(1), big.NewInt(65537)
	prime := func() *big.Int {
		b := make([]byte, bits/16)
		for {
			_, _ = source.Read(b) // cannot fail
			b[0] |= 0xc0          // so that a product of two has all bits
			b[len(b)-1] |= 1
			p := new(big.Int).SetBytes(b)
			if p.ProbablyPrime(20) && new(big.Int).GCD(nil, nil, exponent, new(big.Int).Sub(p, one)).Cmp(one) == 0 {
				return p
			}
		}
	}
	p, q := prime(), prime()
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: int(exponent.Int64())},
		D:         new(big.Int).ModInverse(exponent, phi), Primes: []*big.Int{p, q},
	}
	key.Precompute()
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	return key
}

// keyFiles are private keys for the guest, by their paths.
func keyFiles(t *testing.T) map[string][]byte {
	t.Helper()
	scalar, edSeed := seedOf("p256"), seedOf("ed25519")
	p256, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for name, key := range map[string]any{
		"rsa2048": rsaKey(t, "rsa2048", 2048),
		"p256":    p256,
		"ed25519": ed25519.NewKeyFromSeed(edSeed[:]),
	} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		files["/keys/"+name+".pem"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	return files
}
