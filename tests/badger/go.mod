module example.org/badger-peer

go 1.22
