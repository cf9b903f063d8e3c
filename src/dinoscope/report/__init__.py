"""What a person reads: tables, charts, pictures, and one self-contained HTML file about one or more runs."""
