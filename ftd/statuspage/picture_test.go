package statuspage

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"slices"
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
		return // a tool, and no test
	}
	as := look{width: *pictureWidth, height: cmp.Or(*pictureHeight, 900), dark: *pictureDark, motion: "reduce"}
	tb := open(t, *pictureOf, as)
	tb.until(`document.querySelectorAll(".entry").length > 0 && document.querySelector(".chassis") && (` + *pictureWait + `)`)
	if *pictureHeight == 0 {
		tb.eval(&as.height, "Math.min(document.documentElement.scrollHeight, 6000)")
		tb.as(as)
	}
	tb.picture(*pictureTo)
	fmt.Println("wrote", *pictureTo)
}

// picture writes what is to be seen to a PNG file.
func (tb *tab) picture(file string) {
	tb.t.Helper()
	var shot struct{ Data []byte }
	tb.into(&shot, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": false})
	img, err := png.Decode(bytes.NewReader(shot.Data))
	if err != nil {
		tb.t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, fewColours(img)); err != nil {
		tb.t.Fatal(err)
	}
	if err := os.WriteFile(file, small.Bytes(), 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

// fewColours draws an image in its 256 most frequent colours, which makes the file a third of
// its size; what is left of the others is the edges of letters.
func fewColours(img image.Image) image.Image {
	often := map[color.Color]int{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			often[img.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(often), func(a, b color.Color) int { return cmp.Compare(often[b], often[a]) })
	out := image.NewPaletted(img.Bounds(), colours[:min(256, len(colours))])
	draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Src)
	return out
}
