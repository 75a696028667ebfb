// Executes floating-point instructions of a RISC-V machine for the tests of ft/chipset/rv64/fp.
// Standard input has cases of 32 bytes (code, rounding mode, a, b, c), standard output gets
// 16 bytes for each: the result's register and fflags.
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct request { uint32_t code, rm; uint64_t a, b, c; };
struct answer { uint64_t result, flags; };

static double d(uint64_t x) { double r; __asm__ volatile("fmv.d.x %0, %1" : "=f"(r) : "r"(x)); return r; }
static float s(uint64_t x) { float r; __asm__ volatile("fmv.w.x %0, %1" : "=f"(r) : "r"(x)); return r; }
static uint64_t xd(double x) { uint64_t r; __asm__ volatile("fmv.x.d %0, %1" : "=r"(r) : "f"(x)); return r; }
static uint64_t xs(float x) { uint64_t r; __asm__ volatile("fmv.x.w %0, %1" : "=r"(r) : "f"(x)); return r & 0xffffffff; }

#define FF1(n, op, T, to, from) case n: { T r; __asm__ volatile(op " %0, %1" : "=f"(r) : "f"(from(q->a))); p->result = to(r); break; }
#define FF2(n, op, T, to, from) case n: { T r; __asm__ volatile(op " %0, %1, %2" : "=f"(r) : "f"(from(q->a)), "f"(from(q->b))); p->result = to(r); break; }
#define FF3(n, op, T, to, from) case n: { T r; __asm__ volatile(op " %0, %1, %2, %3" : "=f"(r) : "f"(from(q->a)), "f"(from(q->b)), "f"(from(q->c))); p->result = to(r); break; }
#define XF1(n, op, from) case n: { uint64_t r; __asm__ volatile(op : "=r"(r) : "f"(from(q->a))); p->result = r; break; }
#define XF2(n, op, from) case n: { uint64_t r; __asm__ volatile(op " %0, %1, %2" : "=r"(r) : "f"(from(q->a)), "f"(from(q->b))); p->result = r; break; }
#define FX1(n, op, T, to) case n: { T r; __asm__ volatile(op : "=f"(r) : "r"(q->a)); p->result = to(r); break; }

static void execute(const struct request *q, struct answer *p) {
	__asm__ volatile("fsrm %0" :: "r"((uint64_t)q->rm));
	__asm__ volatile("fsflags zero");
	switch (q->code) {
	FF2(0, "fadd.d", double, xd, d) FF2(1, "fsub.d", double, xd, d)
	FF2(2, "fmul.d", double, xd, d) FF2(3, "fdiv.d", double, xd, d)
	FF1(4, "fsqrt.d", double, xd, d)
	FF3(5, "fmadd.d", double, xd, d) FF3(6, "fmsub.d", double, xd, d)
	FF3(7, "fnmsub.d", double, xd, d) FF3(8, "fnmadd.d", double, xd, d)
	XF2(9, "feq.d", d) XF2(10, "flt.d", d) XF2(11, "fle.d", d)
	FF2(12, "fmin.d", double, xd, d) FF2(13, "fmax.d", double, xd, d)
	XF1(14, "fclass.d %0, %1", d)
	XF1(15, "fcvt.w.d %0, %1, dyn", d) XF1(16, "fcvt.wu.d %0, %1, dyn", d)
	XF1(17, "fcvt.l.d %0, %1, dyn", d) XF1(18, "fcvt.lu.d %0, %1, dyn", d)
	FX1(19, "fcvt.d.w %0, %1", double, xd) FX1(20, "fcvt.d.wu %0, %1", double, xd)
	FX1(21, "fcvt.d.l %0, %1, dyn", double, xd) FX1(22, "fcvt.d.lu %0, %1, dyn", double, xd)
	FF1(23, "fcvt.s.d", float, xs, d) FF1(24, "fcvt.d.s", double, xd, s)
	FF2(32, "fadd.s", float, xs, s) FF2(33, "fsub.s", float, xs, s)
	FF2(34, "fmul.s", float, xs, s) FF2(35, "fdiv.s", float, xs, s)
	FF1(36, "fsqrt.s", float, xs, s)
	FF3(37, "fmadd.s", float, xs, s) FF3(38, "fmsub.s", float, xs, s)
	FF3(39, "fnmsub.s", float, xs, s) FF3(40, "fnmadd.s", float, xs, s)
	XF2(41, "feq.s", s) XF2(42, "flt.s", s) XF2(43, "fle.s", s)
	FF2(44, "fmin.s", float, xs, s) FF2(45, "fmax.s", float, xs, s)
	XF1(46, "fclass.s %0, %1", s)
	XF1(47, "fcvt.w.s %0, %1, dyn", s) XF1(48, "fcvt.wu.s %0, %1, dyn", s)
	XF1(49, "fcvt.l.s %0, %1, dyn", s) XF1(50, "fcvt.lu.s %0, %1, dyn", s)
	FX1(51, "fcvt.s.w %0, %1, dyn", float, xs) FX1(52, "fcvt.s.wu %0, %1, dyn", float, xs)
	FX1(53, "fcvt.s.l %0, %1, dyn", float, xs) FX1(54, "fcvt.s.lu %0, %1, dyn", float, xs)
	}
	__asm__ volatile("frflags %0" : "=r"(p->flags));
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
