package nic

// Canonical is the one way to write what Find takes: two that name a NIC by the same
// means name the same one when they are equal. It says what is wrong with what can name
// no NIC.
func Canonical(name string) (string, error) {
	sp, err := parseSpec(name)
	switch {
	case err != nil:
		return "", err
	case sp.mac != nil:
		return sp.mac.String(), nil
	case sp.pci != "":
		return sp.pci, nil
	}
	return sp.name, nil
}
