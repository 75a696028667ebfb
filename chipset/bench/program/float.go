package main

import "math"

// float is work with floating point: planets (multiplication, division, square roots, in
// double precision), a polynomial and its sum in single precision, conversions and
// comparisons. Additions of products may be fused, which the compiler decides.
func float(rounds int) uint64 {
	system := planets()
	sum := foldStart
	for round := range rounds {
		for range 1000 {
			system.step(0.01)
		}
		sum = fold(sum, math.Float64bits(system.energy()))
		sum = fold(sum, uint64(math.Float32bits(polynomials(float32(round&15)))))
		sum = fold(sum, logistic(float64(round&7)))
	}
	return sum
}

// body is a sun or planet, in units of its distance, mass and time.
type body struct{ x, y, z, vx, vy, vz, mass float64 }

type bodies [5]body

func planets() *bodies {
	return &bodies{
		{mass: 39.5},
		{x: 4.84, y: -1.16, z: -0.10, vx: 0.60, vy: 2.81, vz: -0.025, mass: 0.0377},
		{x: 8.34, y: 4.12, z: -0.40, vx: -1.01, vy: 1.82, vz: 0.008, mass: 0.0113},
		{x: 12.89, y: -15.11, z: -0.22, vx: 1.08, vy: 0.87, vz: -0.011, mass: 0.0017},
		{x: 15.38, y: -25.92, z: 0.18, vx: 0.98, vy: 0.59, vz: -0.035, mass: 0.0020},
	}
}

func (s *bodies) step(dt float64) {
	for i := range s {
		a := &s[i]
		for j := i + 1; j < len(s); j++ {
			b := &s[j]
			dx, dy, dz := a.x-b.x, a.y-b.y, a.z-b.z
			d2 := dx*dx + dy*dy + dz*dz
			f := dt / (d2 * math.Sqrt(d2))
			a.vx -= dx * b.mass * f
			a.vy -= dy * b.mass * f
			a.vz -= dz * b.mass * f
			b.vx += dx * a.mass * f
			b.vy += dy * a.mass * f
			b.vz += dz * a.mass * f
		}
	}
	for i := range s {
		a := &s[i]
		a.x += dt * a.vx
		a.y += dt * a.vy
		a.z += dt * a.vz
	}
}

func (s *bodies) energy() (e float64) {
	for i := range s {
		a := &s[i]
		e += 0.5 * a.mass * (a.vx*a.vx + a.vy*a.vy + a.vz*a.vz)
		for j := i + 1; j < len(s); j++ {
			b := &s[j]
			dx, dy, dz := a.x-b.x, a.y-b.y, a.z-b.z
			e -= a.mass * b.mass / math.Sqrt(dx*dx+dy*dy+dz*dz)
		}
	}
	return e
}

func polynomials(first float32) (sum float32) {
	x := first / 16
	for i := range 5000 {
		p := float32(1)
		for _, c := range [...]float32{0.5, -0.25, 0.125, 1.5, -1.25, 0.75} {
			p = p*x + c
		}
		if p < 0 {
			p = -p
		}
		sum += p
		x = float32(i&1023)/1024 - x/2
	}
	return sum
}

// logistic counts where a chaotic sequence goes, in integers made of it.
func logistic(first float64) (sum uint64) {
	x := (first + 1) / 16
	for range 5000 {
		x = 3.9 * x * (1 - x)
		if n := int64(x * 1e6); n&1 == 0 {
			sum += uint64(n)
		} else {
			sum ^= uint64(n) << 7
		}
	}
	return sum
}
