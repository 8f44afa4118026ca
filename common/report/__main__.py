"""`python -m common.report`."""

from common import report

if __name__ == '__main__':
  report.main()
