"""Lines of a trace without LaTeX and Markdown. Every pass is linear in the length of the line."""

import re

_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|mathit|mathsf|boxed|operatorname|mathbb|mathcal|textbf)\s*(?=\{)")
_SUM = re.compile(
    r"(?:\\sum|Σ|∑|\bsum(?=_))\s*(?:\\limits)?\s*"
    r"(?:_\s*(\{(?:[^{}]|\\?\{[^{}]{0,60}\}){0,120}\}|\w+)(?:\s*\^\s*(?:\{[^{}]{0,60}\}|\w))?)?"
)
_SUM_OVER = re.compile(r"\b(?:the )?sum over (\w+(?:(?:,| and) \w+){0,9}) of\b", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]{0,40}\}|\\tag\s*\{[^{}]{0,20}\}")
_LIST_MARK = re.compile(r"^\s*(?:>\s*)*(?:#{1,6}\s+)?(?:[-*+•]\s+|\(?\d{1,3}[.)]\s+)?(?:Step \d+[.:]\s*)?")
_REPLACED = (
    (re.compile(r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])|∣|\\\|"), "|"),
    (re.compile(r"\\(?:cdot|times|ast)(?![A-Za-z])|[×·⋅∗✕]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\(?:approx|simeq|equiv|doteq)(?![A-Za-z])|[≈≃≅]|:="), "="),
    (re.compile(r"\\(?:neq?|propto|leq?|geq?|lt|gt|ll|gg|to|rightarrow|Rightarrow|implies|sim)(?![A-Za-z])"), " ≠ "),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|quad|qquad|dots|ldots|cdots)(?![A-Za-z])"), " "),
    (re.compile(r"\\[\\,;:! ()\[\]]|[$&`]|\*\*|__"), " "),
    (re.compile(r"\\Pr(?![A-Za-z])"), "P"),
    (re.compile(r"\\([%{}_#])"), r"\1"),
    (re.compile(r"[−–](?=\s*[\d(P])"), "-"),
)
_PHRASES = (
    (re.compile(r",?\s*\b(?:which|that|this) (?:is|gives|equals|makes|yields|comes to)\b", re.IGNORECASE), " = "),
    (re.compile(r",?\s*(?:\bi\.e\.|\bthat is),?", re.IGNORECASE), " = "),
    (re.compile(r"\b(?:is equal to|comes to|works out to|evaluates to|amounts to|adds up to)\b", re.IGNORECASE), " = "),
    (re.compile(r"\bdivided by\b", re.IGNORECASE), " / "),
    (re.compile(r"\bmultiplied by\b", re.IGNORECASE), " * "),
)
_FRACTION, _OPENING = re.compile(r"\\[dt]?frac ?\{"), re.compile(r" ?\{")


def flat(line: str) -> str:
    """A line without LaTeX and Markdown; cells of a row of a table are joined by `=`."""
    line = _ENVIRONMENT.sub(" ", re.sub(r"\s+", " ", line))
    stripped = line.strip()
    if not set(stripped) - set("|-: "):
        return ""  # below the head of a table, or a rule
    if stripped.startswith("|") and stripped.endswith("|") and len(stripped) > 1:
        line = " = ".join(cell for cell in _cells(stripped[1:-1]) if cell.strip())
    line = _SUM.sub(lambda m: f" Σ⟦{m[1] or ''}⟧ ".replace("\\", " "), line)
    line = _SUM_OVER.sub(lambda m: f" Σ⟦{m[1]}⟧ ", line)
    line = _WRAPPED.sub("", line)
    for pattern, to in _REPLACED:
        line = pattern.sub(to, line)
    line = re.sub(r"\\[A-Za-z]+", lambda m: m[0] if m[0] in ("\\frac", "\\dfrac", "\\tfrac") else " ", line)
    line = _LIST_MARK.sub("", _braces(line), count=1)
    for pattern, to in _PHRASES:
        line = pattern.sub(to, line)
    return line


def _cells(row: str) -> list[str]:
    """Cells of a row of a Markdown table. A bar in parentheses, or after a backslash, is of a condition."""
    cells, at, depth = [], 0, 0
    for i, character in enumerate(row):
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(depth - 1, 0)
        elif character == "|" and not depth and row[i - 1 : i] != "\\":
            cells.append(row[at:i])
            at = i + 1
    return [*cells, row[at:]]


def _braces(line: str) -> str:
    r"""`\frac{a}{b}` as ((a)/(b)), and other braces left out."""
    out, stack, i = [], [], 0
    while i < len(line):
        match = _FRACTION.match(line, i) if line[i] == "\\" else None
        if match:
            out.append("((")
            stack.append("top")
            i = match.end()
            continue
        if line[i] == "{":
            stack.append("plain")
        elif line[i] == "}":
            kind = stack.pop() if stack else "plain"
            following = _OPENING.match(line, i + 1)
            if kind == "top" and following:
                out.append(")/(")
                stack.append("bottom")
                i = following.end()
                continue
            out.append({"top": "))", "bottom": "))"}.get(kind, ""))
        else:
            out.append(line[i])
        i += 1
    return "".join(out)
