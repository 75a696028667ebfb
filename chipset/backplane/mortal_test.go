package backplane

const mortalRole = "mortal-chipset"

func mortalChipset() int { return 0 }
