"""Text of a page."""

import html


def escape(text: str) -> str:
  """Text for a page; names of files may have bytes that are no letters."""
  whole = text.encode(errors='backslashreplace').decode()
  return html.escape(whole)


def plural(count: int, noun: str) -> str:
  """A count with its noun, as `1 run` or `2 runs`."""
  return f'{count:,} {noun}' + ('s' if count != 1 else '')
