"""Tables of a report, read back."""


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """Return the table under a heading, by its first column."""
    section = text.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in cells}
