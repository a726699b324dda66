"""Converts a screen, as printed by `tmux capture-pane -e`, to an SVG image.

Colours come from the SGR sequences: 30-37, 90-97, 38;5;N below 16, bold, dim and their resets. Each run of characters
gets an explicit width, so that the columns align with any monospace font.
"""

import argparse
import re
import sys
from html import escape

COLUMN, LINE, MARGIN, BAR = 8.4, 19, 16, 30
FOREGROUND, BACKGROUND = "#d8dee9", "#1e2430"
COLOURS = ["#4c566a", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d8dee9"] + [
    "#7f8a9e", "#f07c86", "#a9d48a", "#f2d08c", "#7cc0ff", "#d692ea", "#6fd0dc", "#ffffff"]


class Style:
    def __init__(self):
        self.colour, self.bold, self.dim = None, False, False

    def apply(self, codes):
        codes = [int(code or 0) for code in codes.split(";")]
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.__init__()
            elif code in (1, 2):
                self.bold, self.dim = self.bold or code == 1, self.dim or code == 2
            elif code == 22:
                self.bold = self.dim = False
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.colour = code - 30 if code < 90 else code - 82
            elif code == 39:
                self.colour = None
            elif code == 38 and codes[:1] == [5]:
                self.colour = codes[1] if codes[1] < 16 else None
                codes = codes[2:]

    def attributes(self):
        colour = FOREGROUND if self.colour is None else COLOURS[self.colour]
        text = f'fill="{colour}"'
        if self.bold:
            text += ' font-weight="bold"'
        if self.dim:
            text += ' opacity="0.65"'
        return text


def spans(line, style):
    """The runs of text with the same style in a line: column, text, attributes."""
    column = 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        match = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
        if match:
            style.apply(match.group(1))
        elif part:
            for word in re.finditer(r"\S+(?: \S+)*", part):
                yield column + word.start(), word.group(), style.attributes()
            column += len(part)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--typed", required=True, help="the command for the first line")
    arguments.add_argument("--columns", type=int, default=80)
    options = arguments.parse_args()
    lines = re.sub(r"\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b\(B|\x0f", "", sys.stdin.read()).split("\n")
    while lines and not re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).strip(" $"):
        lines.pop()
    lines = [f"\x1b[32m$\x1b[0m \x1b[1m{options.typed}\x1b[0m"] + [
        line for line in lines if "ran=1" not in line]
    width = options.columns * COLUMN + 2 * MARGIN
    height = len(lines) * LINE + 2 * MARGIN + BAR
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
          f'role="img" aria-label="A terminal after: {escape(options.typed)}">')
    print(f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>')
    for i, colour in enumerate(["#e06c75", "#e5c07b", "#98c379"]):
        print(f'<circle cx="{MARGIN + 6 + i * 20}" cy="20" r="6" fill="{colour}"/>')
    print('<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14" '
          'xml:space="preserve">')
    style = Style()
    for row, line in enumerate(lines):
        y = BAR + MARGIN + row * LINE + 14
        for column, text, attributes in spans(line, style):
            print(f'<text x="{MARGIN + column * COLUMN:g}" y="{y}" textLength="{len(text) * COLUMN:g}" {attributes}>'
                  f'{escape(text)}</text>')
    print("</g>\n</svg>")


if __name__ == "__main__":
    main()
