"""From records to tables and figures; knows no paper."""

from alnb.report import records as records
