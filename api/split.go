package api

import (
	"bytes"
	"errors"
	"io"
	"strconv"
)

// splitArray cuts the text of a JSON array into the texts of its elements, looking at brackets and strings only. What an
// element contains is judged when it is decoded: one bad element must not cost its neighbours. The whole is refused when it
// cannot be cut, or has more than most elements.
func splitArray(body []byte, most int) ([][]byte, error) {
	broken := refuse(codeInvalidJSON, "The JSON array ends early, has an empty element, or is followed by something else.")
	body = bytes.Trim(body, whiteSpace)
	if len(body) < 2 || body[0] != '[' || body[len(body)-1] != ']' {
		return nil, broken
	}
	body = body[1:] // the closing bracket ends the last element
	if len(bytes.Trim(body, whiteSpace)) == 1 {
		return nil, nil
	}
	elements := make([][]byte, 0, 16)
	for {
		n := endOfElement(body)
		if n < 0 {
			return nil, broken
		}
		element := bytes.Trim(body[:n], whiteSpace)
		if len(element) == 0 {
			return nil, broken
		}
		if len(elements) == most {
			return nil, refuse(codeTooLarge, "The array has more than "+strconv.Itoa(most)+" elements; send several.")
		}
		elements = append(elements, element)
		if body[n] == ']' {
			if n != len(body)-1 {
				return nil, broken
			}
			return elements, nil
		}
		body = body[n+1:]
	}
}

const whiteSpace = " \t\r\n"

// endOfElement is the place of the comma or bracket that ends the first element; -1 without one.
func endOfElement(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := endOfString(b[i+1:])
			if n < 0 {
				return -1
			}
			i += 1 + n
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				if b[i] == ']' {
					return i
				}
				return -1
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return -1
}

// endOfString is the place of the quote that ends a string; -1 without one.
func endOfString(b []byte) int {
	for i := 0; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		escapes := 0
		for escapes < i && b[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
	return -1
}

// lineReader cuts a stream into lines of bounded length with a buffer of bounded size.
type lineReader struct {
	from io.Reader
	// beforeRead is called before each read that follows a complete line: only progress buys time.
	beforeRead func()

	buf        []byte
	start      int // of the line
	searched   int // no line feed before here
	progressed bool
	skipping   bool // the line is too long; the rest of it is thrown away
	err        error
}

func newLineReader(from io.Reader, beforeRead func()) *lineReader {
	return &lineReader{from: from, beforeRead: beforeRead, progressed: true, buf: make([]byte, 0, 32<<10)}
}

// next returns the next line without its end, valid until the next call. A line beyond maxLineBytes is reported as too
// long, without its text. At the end the error is io.EOF; a last line without line feed is a line.
func (l *lineReader) next() (line []byte, tooLong bool, err error) {
	for {
		if n := bytes.IndexByte(l.buf[l.searched:], '\n'); n >= 0 {
			line, tooLong = l.buf[l.start:l.searched+n], l.skipping
			l.start = l.searched + n + 1
			l.searched, l.skipping, l.progressed = l.start, false, true
			return line, tooLong || len(line) > maxLineBytes, nil
		}
		l.searched = len(l.buf)
		if l.err != nil {
			line, tooLong = l.buf[l.start:], l.skipping
			l.start, l.skipping = len(l.buf), false
			if errors.Is(l.err, io.EOF) && (len(line) > 0 || tooLong) {
				return line, tooLong || len(line) > maxLineBytes, nil
			}
			return nil, false, l.err
		}
		if len(l.buf)-l.start > maxLineBytes {
			l.skipping = true
			l.start = len(l.buf)
		}
		l.fill()
	}
}

// fill makes room and reads once. A skipped line keeps no text.
func (l *lineReader) fill() {
	if l.start > 0 {
		l.buf = l.buf[:copy(l.buf, l.buf[l.start:])]
		l.searched -= l.start
		l.start = 0
	}
	if len(l.buf) == cap(l.buf) {
		grown := make([]byte, len(l.buf), min(2*cap(l.buf), maxLineBytes+64<<10))
		copy(grown, l.buf)
		l.buf = grown
	}
	if l.progressed {
		l.beforeRead()
		l.progressed = false
	}
	n, err := l.from.Read(l.buf[len(l.buf):cap(l.buf)])
	l.buf = l.buf[:len(l.buf)+n]
	l.err = err
}
