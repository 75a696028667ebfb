// Empty: a file of assembler lets the package declare the functions that rounds_free.go
// takes from the runtime without a body.
