package statuspage

import (
	"flag"
	"fmt"
	"testing"
)

// How the pictures are made: a test box runs with status_page set, and
//
//	go test ./ftd/statuspage -run TestPicture -picture.of http://127.0.0.1:PORT/ -picture.to FILE.png
var (
	pictureOf     = flag.String("picture.of", "", "URL of a page to take a picture of")
	pictureTo     = flag.String("picture.to", "statuspage.png", "where to")
	pictureWidth  = flag.Int("picture.width", 1440, "")
	pictureHeight = flag.Int("picture.height", 0, "0: as high as the page")
	pictureDark   = flag.Bool("picture.dark", false, "")
	pictureWait   = flag.String("picture.wait", "true", "a script that says when")
)

func TestPicture(t *testing.T) {
	if *pictureOf == "" {
		t.Skip("no -picture.of")
	}
	as := look{width: *pictureWidth, height: max(*pictureHeight, 900), dark: *pictureDark}
	tb := open(t, *pictureOf, as)
	tb.until(`document.querySelectorAll(".entry").length > 0 && document.querySelector(".chassis") && (` + *pictureWait + `)`)
	if *pictureHeight == 0 {
		tb.eval(&as.height, "Math.min(document.documentElement.scrollHeight, 6000)")
		tb.as(as)
	}
	tb.picture(*pictureTo)
	fmt.Println("wrote", *pictureTo)
}
