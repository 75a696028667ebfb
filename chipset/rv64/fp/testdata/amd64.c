// Executes floating-point instructions of the host for the tests of ft/chipset/rv64/fp: same
// cases and answers as riscv.c, but only what this processor has (no RMM, no minimum of
// IEEE 754-2019, no unsigned integers). It detects tininess after rounding, as RISC-V does.
// What the two architectures define differently is translated: NaN results become the
// canonical one, integers that do not fit saturate, and infinity times zero is invalid also
// when a quiet NaN is added.
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct request { uint32_t code, rm; uint64_t a, b, c; };
struct answer { uint64_t result, flags; };

enum { NX = 1, UF = 2, OF = 4, DZ = 8, NV = 16 };

static double d(uint64_t x) { double r; memcpy(&r, &x, 8); return r; }
static float s(uint64_t x) { float r; memcpy(&r, &x, 4); return r; }
static uint64_t xd(double x) { uint64_t r; memcpy(&r, &x, 8); return r << 1 > 0xffe0000000000000 ? 0x7ff8000000000000 : r; }
static uint64_t xs(float x) { uint32_t r; memcpy(&r, &x, 4); return r << 1 > 0xff000000 ? 0x7fc00000 : r; }
static int qnan64(uint64_t x) { return x << 1 > 0xffe0000000000000; }
static int qnan32(uint32_t x) { return x << 1 > 0xff000000; }

static int inf_times_zero(const struct request *q) {
	if (q->code >= 5 && q->code <= 8)
		return (q->a << 1 == 0 && q->b << 1 == 0xffe0000000000000) || (q->b << 1 == 0 && q->a << 1 == 0xffe0000000000000);
	uint32_t a = q->a, b = q->b;
	return q->code >= 37 && q->code <= 40 && ((a << 1 == 0 && b << 1 == 0xff000000) || (b << 1 == 0 && a << 1 == 0xff000000));
}

static uint32_t flags(void) {
	uint32_t m = _mm_getcsr();
	return (m & 0x20 ? NX : 0) | (m & 0x10 ? UF : 0) | (m & 8 ? OF : 0) | (m & 4 ? DZ : 0) | (m & 1 ? NV : 0);
}

#define F1(n, op, T, to, from) case n: { T r; __asm__ volatile(op " %1, %0" : "=x"(r) : "x"(from(q->a))); p->result = to(r); break; }
#define F2(n, op, T, to, from) case n: { T r = from(q->a); __asm__ volatile(op " %1, %0" : "+x"(r) : "x"(from(q->b))); p->result = to(r); break; }
#define F3(n, op, T, to, from) case n: { T r = from(q->c); __asm__ volatile(op " %2, %1, %0" : "+x"(r) : "x"(from(q->a)), "x"(from(q->b))); p->result = to(r); break; }
#define C(n, op, from, set) case n: { uint8_t r, o; __asm__ volatile(op " %3, %2\n\t" set " %0\n\tsetnp %1" : "=q"(r), "=q"(o) : "x"(from(q->a)), "x"(from(q->b)) : "cc"); p->result = r & o; break; }
#define X(n, op, I, from, isnan, min, max) case n: { I r; __asm__ volatile(op " %1, %0" : "=r"(r) : "x"(from(q->a))); \
	p->result = (uint64_t)(int64_t)r; if (flags() & NV) p->result = (uint64_t)(isnan(q->a) || from(q->a) > 0 ? max : min); break; }
#define I(n, op, Int, T, to) case n: { T r = 0; __asm__ volatile(op " %1, %0" : "+x"(r) : "r"((Int)q->a)); p->result = to(r); break; }

static void execute(const struct request *q, struct answer *p) {
	static const uint32_t mode[] = {0x0000, 0x6000, 0x2000, 0x4000};
	p->result = 0;
	_mm_setcsr(0x1f80 | mode[q->rm & 3]);
	switch (q->code) {
	F2(0, "addsd", double, xd, d) F2(1, "subsd", double, xd, d)
	F2(2, "mulsd", double, xd, d) F2(3, "divsd", double, xd, d)
	F1(4, "sqrtsd", double, xd, d)
	F3(5, "vfmadd231sd", double, xd, d) F3(6, "vfmsub231sd", double, xd, d)
	F3(7, "vfnmadd231sd", double, xd, d) F3(8, "vfnmsub231sd", double, xd, d)
	C(9, "ucomisd", d, "sete") C(10, "comisd", d, "setb") C(11, "comisd", d, "setbe")
	X(15, "cvtsd2si", int32_t, d, qnan64, INT32_MIN, INT32_MAX)
	X(17, "cvtsd2si", int64_t, d, qnan64, INT64_MIN, INT64_MAX)
	I(19, "cvtsi2sdl", int32_t, double, xd) I(21, "cvtsi2sdq", int64_t, double, xd)
	F1(23, "cvtsd2ss", float, xs, d) F1(24, "cvtss2sd", double, xd, s)
	F2(32, "addss", float, xs, s) F2(33, "subss", float, xs, s)
	F2(34, "mulss", float, xs, s) F2(35, "divss", float, xs, s)
	F1(36, "sqrtss", float, xs, s)
	F3(37, "vfmadd231ss", float, xs, s) F3(38, "vfmsub231ss", float, xs, s)
	F3(39, "vfnmadd231ss", float, xs, s) F3(40, "vfnmsub231ss", float, xs, s)
	C(41, "ucomiss", s, "sete") C(42, "comiss", s, "setb") C(43, "comiss", s, "setbe")
	X(47, "cvtss2si", int32_t, s, qnan32, INT32_MIN, INT32_MAX)
	X(49, "cvtss2si", int64_t, s, qnan32, INT64_MIN, INT64_MAX)
	I(51, "cvtsi2ssl", int32_t, float, xs) I(53, "cvtsi2ssq", int64_t, float, xs)
	}
	p->flags = flags() | (inf_times_zero(q) ? NV : 0);
	_mm_setcsr(0x1f80);
}

// A batch is answered as soon as it is there: fread would wait for a full buffer.
int main(void) {
	static struct request in[4096];
	static struct answer out[4096];
	size_t have = 0;
	ssize_t got;
	while ((got = read(0, (char *)in + have, sizeof in - have)) > 0) {
		have += got;
		size_t n = have / sizeof in[0];
		for (size_t i = 0; i < n; i++)
			execute(&in[i], &out[i]);
		if (fwrite(out, sizeof out[0], n, stdout) != n || fflush(stdout) != 0)
			return 1;
		have -= n * sizeof in[0];
		memmove(in, &in[n], have);
	}
	return got < 0 || have != 0;
}
