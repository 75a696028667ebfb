package rv64_test

import (
	"ft/chipset/rv64"
	"ft/chipset/rv64/translate"
)

func init() {
	rv64.AttachTranslator = func(h *rv64.Hart, threshold int) (func() error, error) {
		t, err := translate.Attach(h, translate.Options{Threshold: threshold, CodeBytes: 4 << 20})
		if err != nil {
			return nil, err
		}
		return t.Close, nil
	}
}
