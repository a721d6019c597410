"""Records in, figures and one offline HTML page out."""
