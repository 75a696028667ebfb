package programs

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"

	"ft/chipset/programs/plan"
)

//go:embed testdata/queries.sql
var queries []byte

//go:embed testdata/floats.py
var floats []byte

//go:embed testdata/unittests.py
var unittests []byte

// scripts are files of ours that the commands use.
var scripts = map[string][]byte{"/t/queries.sql": queries, "/t/floats.py": floats, "/t/unittests.py": unittests, "/t/text": text()}

// text is /t/text, a file for what works on files.
func text() []byte {
	const words = "the quick brown fox jumps over the lazy dog"
	var b bytes.Buffer
	x := uint64(1)
	for i := range 2000 {
		x = x * 16807 % (1<<31 - 1)
		fmt.Fprintf(&b, "%d line %08x of %s, %d.%03d\n", i, x, words[x%30:], x/1000, x%1000)
	}
	return b.Bytes()
}

// applets are commands that are busybox's own; each script is run in an empty directory.
var applets = []plan.Command{
	{Name: "busybox digests", Script: `busybox cp /t/text .; for d in crc32 md5sum sha1sum sha256sum sha512sum sha3sum; do busybox $d text; done`},
	{Name: "busybox packers", Script: `busybox cp /t/text .
for p in gzip bzip2 lzop; do
	busybox $p -c text > t.$p && busybox md5sum t.$p && busybox $p -dc t.$p | busybox cmp - text && echo $p is well
done
busybox tar cf t.tar text && busybox tar tf t.tar && busybox tar xOf t.tar text | busybox cmp - text
busybox find . -type f | busybox sort | busybox cpio -o -H newc 2>/dev/null | busybox cpio -t 2>/dev/null`},
	{Name: "busybox texts", Script: `busybox cp /t/text .
busybox sed -n 's/line \([0-9a-f]*\) of \(.*\),/\2 \1/p' text | busybox sort -k1,1 -k3n | busybox uniq -c -f 2 | busybox md5sum
busybox grep -E -c 'f(o|u)x.*[02468]$' text; busybox tr a-z n-za-m < text | busybox cut -d' ' -f2,4- | busybox rev | busybox md5sum
busybox sort -R text | busybox sort -n | busybox cmp - text; busybox shuf text | busybox sort -n | busybox cmp - text
busybox od -An -tx8 -N 64 text; busybox hexdump -C -n 64 text; busybox xxd -l 64 text; busybox base64 < text | busybox base64 -d | busybox cmp - text
busybox fold -w 40 text | busybox nl | busybox tac | busybox md5sum; busybox head -50 text > a; busybox sed 3,5d a > b; busybox diff a b
busybox comm -12 a b | busybox wc; busybox cal 2 2000; busybox date -u -d @1234567890; busybox factor 1234567890123456789 4294967291`},
	{Name: "busybox numbers", Script: `
busybox awk 'BEGIN { for (i = 1; i < 3000; i++) { s += sin(i)*sqrt(i)/exp(i%7) + log(i)*cos(i) - atan2(i, 7)**3; if (i%300 == 0) printf "%d %.17g %e %d\n", i, s, s*1e200, s } print 2**0.5, 1/3, 7%3, -7%3, int(-3.9), 1e300*1e300, log(-1) }'
busybox bc -l <<'.'
scale=60
4*a(1); e(1); l(2); s(1); sqrt(2); 2^300 % 1000007; 1/7
.
echo '40k 2v p 1 3/p 2 200^p' | busybox dc
i=0; x=1; while [ $i -lt 3000 ]; do x=$(( (x*6364136223846793005 + 1442695040888963407) ^ x>>17 )); i=$((i+1)); done; echo $x $((x/7)) $((x%7)) $((x>>3))`},
	{Name: "ash", Script: `
fib() { [ $1 -lt 2 ] && echo $1 || echo $(( $(fib $(($1-1))) + $(fib $(($1-2))) )); }
fib 8
trap 'echo got TERM' TERM; kill -TERM $$; trap 'echo the end' EXIT
for i in 1 2 3 4 5; do (exit $i) & p=$!; wait $p; echo child $i ended with $?; done
for i in 1 2 3 4 5 6 7 8; do (busybox seq $((i*100)) | busybox md5sum > $i.sum) & done; wait; busybox cat *.sum
s=abcdefabc; echo ${s#*c} ${s##*c} ${s%b*} ${#s} $(printf '%05.1f|%-6s|%x' 3.14159 ab 255)
(busybox sleep 100 & kill -9 $!; wait $!; echo $?) 2>/dev/null; yes | busybox head -20000 | busybox wc -c; exit 0`},
}

// queriesAndCrypto are commands of sqlite3 and openssl that end soon.
var queriesAndCrypto = []plan.Command{
	{Name: "sqlite3", Script: `sqlite3 file.db < /t/queries.sql && busybox md5sum file.db`},
	{Name: "openssl digests", Script: `for d in sha1 sha512 sha3-256 blake2b512; do openssl dgst -$d /t/text || echo $d failed; done`},
	{Name: "openssl ciphers", Script: ciphers("aes-128-cbc chacha20 camellia-256-cbc")},
	{Name: "openssl keys from seeds", Script: `
echo a message > m
openssl pkey -in /keys/rsa2048.pem -pubout -out rsa.pub && openssl dgst -sha256 -sign /keys/rsa2048.pem -out s m && openssl dgst -sha256 s && openssl dgst -sha256 -verify rsa.pub -signature s m
openssl pkey -in /keys/p256.pem -pubout -out ec.pub && openssl dgst -sha256 -sign /keys/p256.pem -sigopt nonce-type:1 -out s m && openssl asn1parse -inform DER -in s && openssl dgst -sha256 -verify ec.pub -signature s m`},
}

// ciphers encrypts and decrypts with each of the names.
func ciphers(names string) string {
	return `key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
for c in ` + names + `; do
	openssl enc -$c -K $key -iv 000102030405060708090a0b0c0d0e0f -in /t/text -out out 2>/dev/null && busybox sha256sum out &&
	openssl enc -d -$c -K $key -iv 000102030405060708090a0b0c0d0e0f -in out 2>/dev/null | busybox cmp - /t/text && echo $c is well
done`
}

// moreCrypto is openssl with what takes longer, or random numbers.
var moreCrypto = []plan.Command{
	{Name: "openssl more digests", Script: `
for d in md5 sha224 sha256 sha384 sha512-256 sha3-512 blake2s256 sm3 rmd160; do openssl dgst -$d /t/text || echo $d failed; done
openssl dgst -shake256 -xoflen 64 /t/text; openssl dgst -sha256 -hmac key /t/text
openssl mac -cipher aes-128-cbc -macopt hexkey:000102030405060708090a0b0c0d0e0f -in /t/text CMAC
openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -in /t/text Poly1305
openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f -in /t/text SipHash`},
	{Name: "openssl more ciphers", Script: ciphers("aes-128-ecb aes-192-ctr aes-256-cbc aes-256-ofb aes-128-cfb aria-128-cbc sm4-cbc des-ede3-cbc")},
	{Name: "openssl key derivation", Script: `
openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:pass -kdfopt salt:saltsalt -kdfopt iter:2000 PBKDF2
openssl kdf -keylen 32 -kdfopt digest:SHA2-256 -kdfopt hexkey:000102 -kdfopt salt:salt HKDF
openssl kdf -keylen 32 -kdfopt pass:pass -kdfopt salt:saltsalt -kdfopt n:1024 -kdfopt r:8 -kdfopt p:1 SCRYPT
openssl kdf -keylen 32 -kdfopt pass:pass -kdfopt salt:saltsalt -kdfopt iter:2 -kdfopt memcost:1024 -kdfopt lanes:1 ARGON2ID`},
	{Name: "openssl more keys from seeds", Script: `
echo a message > m
openssl pkey -in /keys/rsa2048.pem -check -noout; openssl pkey -in /keys/rsa2048.pem -pubout -out rsa.pub && busybox cat rsa.pub
openssl dgst -sha512 -sign /keys/rsa2048.pem -sigopt rsa_padding_mode:pss -out s m && openssl dgst -sha512 -verify rsa.pub -sigopt rsa_padding_mode:pss -signature s m
openssl pkeyutl -encrypt -pubin -inkey rsa.pub -pkeyopt rsa_padding_mode:oaep -in m -out e && openssl pkeyutl -decrypt -inkey /keys/rsa2048.pem -pkeyopt rsa_padding_mode:oaep -in e
openssl pkey -in /keys/p256.pem -check -noout; openssl pkey -in /keys/p256.pem -pubout -out ec.pub && busybox cat ec.pub
openssl pkeyutl -derive -inkey /keys/p256.pem -peerkey ec.pub | openssl dgst -sha256
openssl pkey -in /keys/ed25519.pem -pubout -out ed.pub && busybox cat ed.pub
openssl pkeyutl -sign -rawin -inkey /keys/ed25519.pem -in m -out s && openssl dgst -sha256 s && openssl pkeyutl -verify -rawin -pubin -inkey ed.pub -sigfile s -in m
seed=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
openssl genpkey -algorithm ML-DSA-44 -pkeyopt hexseed:$seed -out k && openssl dgst -sha256 k && openssl pkey -in k -pubout -out p
openssl pkeyutl -sign -inkey k -pkeyopt deterministic:1 -in m -out s && openssl dgst -sha256 s && openssl pkeyutl -verify -pubin -inkey p -sigfile s -in m
openssl genpkey -algorithm ML-KEM-768 -pkeyopt hexseed:$seed$seed -out k && openssl dgst -sha256 k && openssl pkey -in k -pubout -out p
openssl pkeyutl -encap -pubin -inkey p -out c -secret s1 && openssl pkeyutl -decap -inkey k -in c -secret s2 && busybox cmp s1 s2 && echo the same secret`},
	{Name: "openssl new keys", Script: `
echo a message > m
for bits in 1024 2048; do openssl genrsa -out k $bits && openssl pkey -in k -check -noout && openssl dgst -sign k -out s m && openssl pkey -in k -pubout -out p && openssl dgst -verify p -signature s m; done
for c in prime256v1 secp384r1 secp521r1 brainpoolP256r1 secp256k1; do
	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:$c -out k && openssl pkey -in k -check -noout && openssl dgst -sha384 -sign k -out s m && openssl pkey -in k -pubout -out p && openssl dgst -sha384 -verify p -signature s m
done
for a in ED25519 ED448; do openssl genpkey -algorithm $a -out k && openssl pkeyutl -sign -rawin -inkey k -in m -out s && openssl pkeyutl -verify -rawin -inkey k -sigfile s -in m; done
for a in X25519 X448; do openssl genpkey -algorithm $a -out k && openssl genpkey -algorithm $a -out l && openssl pkey -in k -pubout -out kp && openssl pkey -in l -pubout -out lp &&
	openssl pkeyutl -derive -inkey k -peerkey lp -out 1 && openssl pkeyutl -derive -inkey l -peerkey kp -out 2 && busybox cmp 1 2 && echo $a is well; done
openssl prime 170141183460469231731687303715884105727 170141183460469231731687303715884105729`,
		Rules: []plan.Rule{{Match: `^[.+*]+\n?`, Put: ""}}},
	{Name: "openssl speed", Script: `for a in md5 sha256 sha512 aes-128-cbc aes-256-gcm chacha20-poly1305 rsa2048 ecdsap256 ed25519 ecdhx25519; do
	case $a in *-*) evp=-evp;; *) evp=;; esac
	openssl speed -seconds 1 $evp $a 2>&1 || echo $a failed with $?
done`, Rules: []plan.Rule{{Match: `[0-9][0-9.]*[ks]?`, Put: "N"}, {Match: ` +`, Put: " "}, {Match: `^(options|compiler|CPUINFO|built on):.*`, Put: "$1"}}},
}

// python is Python's own tests of what computes, and ours of floating point.
func python() []plan.Command {
	list := []plan.Command{{Name: "python floats", Script: `python3 /t/floats.py 2`}}
	// Half the time of all of them, for no operation that the others have not got.
	const skipped = "test_sumprod_stress"
	for _, modules := range []string{
		"math cmath", "float complex", "struct array", "zlib", "hashlib", "json", "decimal", "random",
	} {
		args := "test.test_" + strings.ReplaceAll(modules, " ", " test.test_")
		list = append(list, plan.Command{
			Name: "python tests of " + modules, Script: fmt.Sprintf("python3 /t/unittests.py %s %s", skipped, args),
			Rules: []plan.Rule{{Match: `^Ran (\d+) tests? in .*$`, Put: "Ran $1 tests"}},
		})
	}
	return list
}

// busyboxTests is busybox's own test suite. Some of its tests fail on any machine here,
// where there is no network and little of a system: that both say the same is what counts.
var busyboxTests = plan.Command{Name: "busybox's own tests", Script: `
busybox cp -r /source bb && cd bb && busybox cp /usr/bin/busybox . && busybox cp debian/config/pkg/static .config && cd testsuite || exit 1
mkdir /tmp/links && busybox --install -s /tmp/links && export PATH=/tmp/links:$PATH
sh ./runtest 2>&1; echo ended with $?`,
	Rules: []plan.Rule{
		{Match: `^(/tmp/work/bb/\S+: line )\d+`, Put: "$1"},
		{Match: `\b\d+ (Terminated|Killed|Done)`, Put: "PID $1"},
	}}

// shortList is for every run of the tests, wholeList for `make test-kernels`.
func shortList() []plan.Command {
	return append(append([]plan.Command{}, applets...), queriesAndCrypto...)
}

func wholeList() []plan.Command {
	list := append(shortList(), moreCrypto...)
	list = append(list, python()...)
	return append(list, busyboxTests)
}
