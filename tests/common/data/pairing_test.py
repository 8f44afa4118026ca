import pytest

from common.data import pairing


def touch(folder, *names):
  folder.mkdir(exist_ok=True)
  for name in names:
    (folder / name).write_bytes(b'')
  return folder


def test_all_problems_and_what_remains(tmp_path):
  one = touch(tmp_path / 'a', '1.png', '2.png', '3.png', 'x.jpg')
  other = touch(tmp_path / 'b', '01.png', '3.png', '003.png', '4.png')
  with pytest.raises(pairing.PairingError) as caught:
    pairing.match_folders(one, other, input_pattern=r'(\d+)\.png')
  error = caught.value
  assert error.problems == (
    rf'the name of {one}/x.jpg does not fit (\d+)\.png',
    f'{other}/003.png and {other}/3.png are both the clean image 3',
    f'{one}/2.png has no partner in {other}',
    f'{other}/4.png has no partner in {one}',
  )
  assert error.paired == ((one / '1.png',), (other / '01.png',))
  assert all(name in str(error) for name in ('x.jpg', '003', '2.png', '4.png'))


def test_all_are_counted_though_the_message_is_short(tmp_path):
  one = touch(tmp_path / 'a', *(f'{i}.png' for i in range(9)))
  other = touch(tmp_path / 'b', '0.png')
  with pytest.raises(
    pairing.PairingError, match=r'5\.png and 3 more$'
  ) as caught:
    pairing.match_folders(one, other)
  assert len(caught.value.problems) == 8


def test_a_key_that_is_optional(tmp_path):
  one = touch(tmp_path / 'a', 'a1.png', 'a.png')
  other = touch(tmp_path / 'b', 'a1.png')
  with pytest.raises(pairing.PairingError, match=r'1 file names .*a/a\.png'):
    pairing.match_folders(one, other, input_pattern=r'a(\d)?\.png')


def test_a_pattern_that_is_none(tmp_path):
  with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
    pairing.match_folders(tmp_path, tmp_path, target_pattern='(')
