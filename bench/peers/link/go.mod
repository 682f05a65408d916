module link

go 1.25
