# Doubles and floats from a seed, with more zeros, infinities, NaNs, subnormals and powers
# of two than chance would give, through what Python offers of the C library and of the
# processor. One line for each operation and hundred operands.
import ctypes, hashlib, math, struct, sys

state = 0x9E3779B97F4A7C15
M = (1 << 64) - 1


def word():
    global state
    state = (state ^ state << 13) & M
    state ^= state >> 7
    state = (state ^ state << 17) & M
    return state


def double():
    kind, w = word() >> 60, word()
    if kind == 0:
        w &= 1 << 63
    elif kind == 1:
        w = w & 1 << 63 | 0x7FF << 52
    elif kind == 2:
        w = 0x7FF8 << 48
    elif kind == 3:
        w &= ~(0x7FF << 52)
    elif kind == 4:
        w &= ~((1 << 52) - 1)
    elif kind < 11:
        w = w & ~(0x7FF << 52) | 1023 - 8 + (w >> 52) % 24 << 52
    return struct.unpack("<d", struct.pack("<Q", w & M))[0]


def show(v):
    if isinstance(v, tuple):
        return ",".join(map(show, v))
    if isinstance(v, complex):
        return show((v.real, v.imag))
    if isinstance(v, float):
        return "nan" if v != v else v.hex()
    return str(v)


def single(v):
    return ctypes.c_float(v).value


libm = ctypes.CDLL("libm.so.6")
for name, args in dict(fmaf=3, sqrtf=1, rintf=1, roundf=1, hypotf=2, expf=1, logf=1, sinf=1, powf=2).items():
    f = getattr(libm, name)
    f.restype, f.argtypes = ctypes.c_float, [ctypes.c_float] * args
for name in "lrint llrint lround".split():
    getattr(libm, name).restype, getattr(libm, name).argtypes = ctypes.c_long, [ctypes.c_double]
for name in "lrintf lroundf".split():
    getattr(libm, name).restype, getattr(libm, name).argtypes = ctypes.c_long, [ctypes.c_float]
libm.rint.restype, libm.rint.argtypes = ctypes.c_double, [ctypes.c_double]

# FE_TONEAREST and the rest are fenv.h's of glibc for RISC-V.
MODES = {0: "nearest", 1: "zero", 2: "down", 3: "up"}


def rounded(mode, f, *args):
    libm.fesetround(mode)
    try:
        return f(*args)
    finally:
        libm.fesetround(0)


OPERATIONS = {
    "add": (2, lambda a, b: a + b), "sub": (2, lambda a, b: a - b), "mul": (2, lambda a, b: a * b),
    "div": (2, lambda a, b: a / b), "floordiv": (2, lambda a, b: a // b), "mod": (2, lambda a, b: a % b),
    "pow": (2, lambda a, b: a ** b), "compare": (2, lambda a, b: (a < b, a <= b, a == b, a != b)),
    "max": (2, max), "neg": (1, lambda a: -a), "abs": (1, abs), "int": (1, int), "round": (1, round),
    "round2": (1, lambda a: round(a, 2)), "repr": (1, lambda a: repr(a)), "parse": (1, lambda a: float(repr(a))),
    "format": (1, lambda a: f"{a:.3e} {a:.17g} {a:.1f}"), "ratio": (1, lambda a: a.as_integer_ratio()),
    "single": (1, single), "half": (1, lambda a: struct.unpack("<e", struct.pack("<e", a))[0]),
    "complex": (2, lambda a, b: complex(a, b) * complex(b, a)), "cdiv": (2, lambda a, b: complex(a, b) / complex(b, 1)),
    "fma": (3, math.fma), "fmod": (2, math.fmod), "remainder": (2, math.remainder), "hypot": (2, math.hypot),
    "atan2": (2, math.atan2), "copysign": (2, math.copysign), "nextafter": (2, math.nextafter),
    "ldexp": (2, lambda a, b: math.ldexp(a, int(b))), "fsum": (3, lambda *a: math.fsum(a)),
    **{n: (1, getattr(math, n)) for n in ("sqrt cbrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh "
        "tanh asinh acosh atanh erf erfc gamma lgamma floor ceil trunc frexp modf ulp degrees isnan").split()},
    **{n: (3 if n == "fmaf" else 2 if n in ("hypotf", "powf") else 1, getattr(libm, n)) for n in
        "fmaf sqrtf rintf roundf hypotf expf logf sinf powf rint lrint llrint lround lrintf lroundf".split()},
}
for mode, name in MODES.items():
    for op in "add sub mul div sqrt fma single rint lrint fmaf sqrtf".split():
        n, f = OPERATIONS[op]
        OPERATIONS[op + " " + name] = (n, lambda *a, m=mode, f=f: rounded(m, f, *a))

for name, (n, f) in OPERATIONS.items():
    for chunk in range(int(sys.argv[1])):
        h = hashlib.sha256()
        for _ in range(100):
            args = [double() for _ in range(n)]
            try:
                v = show(f(*args))
            except (ArithmeticError, ValueError, TypeError) as e:
                v = type(e).__name__
            h.update((v + "\n").encode())
            last = f"{name}({', '.join(map(show, args))}) = {v}"
        print(name, chunk, h.hexdigest()[:16], last)
