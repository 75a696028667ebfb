package statuspage

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"strings"
)

// The page is one document. Style and script stand in it, and its policy names them by their
// hashes: nothing else runs, no other file is loaded, and text that comes from the box cannot
// become markup (Trusted Types forbid that to the script itself).

//go:embed page/page.html page/*.css page/*.js
var files embed.FS

// parts of the style and of the script, in their order. The script is one scope: each file
// uses what the ones before it define.
var (
	styles  = []string{"base.css", "box.css", "log.css"}
	scripts = []string{"dom.js", "words.js", "model.js", "verdict.js", "box.js", "log.js", "main.js"}
)

// page is what / answers.
var page = assemble()

type document struct {
	html   string
	policy string
}

func assemble() document {
	style := "\n" + join(styles)
	script := "\n\"use strict\";\n(() => {\n" + join(scripts) + "})();\n"
	return document{
		html: strings.NewReplacer("/*STYLE*/", style, "/*SCRIPT*/", script).Replace(read("page.html")),
		policy: strings.Join([]string{
			"default-src 'none'",
			"script-src " + hash(script),
			"style-src " + hash(style),
			"connect-src 'self'",
			"img-src data:", // the icon, which is drawn
			"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
			"require-trusted-types-for 'script'", "trusted-types 'none'",
		}, "; "),
	}
}

func (d document) serve(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", d.policy)
	_, _ = w.Write([]byte(d.html)) // a reader that has gone is not our problem
}

func join(names []string) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteString(read(name))
	}
	return b.String()
}

func read(name string) string {
	b, err := files.ReadFile("page/" + name)
	if err != nil {
		panic("statuspage: " + err.Error()) // it is built in
	}
	return string(b)
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
