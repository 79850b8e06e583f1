"""What is shown: figures, the page of a report, tables of the terminal; made of plain values."""
