module ft

go 1.26
