"""`python -m common.report`."""

from common import console, report

if __name__ == '__main__':
  console.run(report.main)
