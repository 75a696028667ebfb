package config

import _ "embed"

// Example is an ft.toml with every key there is, all of it commented out: what a fresh
// installation has as /etc/ft/ft.toml, and ft.toml(5) shows.
//
//go:embed example.toml
var Example string
