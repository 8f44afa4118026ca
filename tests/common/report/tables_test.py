"""Tables of a report, by themselves."""

from common.report.tables import markdown


def test_text_for_a_table(tmp_path):
  assert markdown('no <table>') == (
    '<div class="card"><pre>no &lt;table&gt;</pre></div>'
  )
  assert '<pre>' in markdown('| a |\n| b |\n| c |')
  assert '<pre>' in markdown('| a | b |\n|---|---|\n| c |')
