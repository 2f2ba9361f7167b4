"""From records to tables and figures; knows no paper."""
