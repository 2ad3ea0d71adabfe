// Program badger-peer is the real Badger for the tests of src/agent/badger.py.
//
//	badger-peer write DIRECTORY SEED TRANSACTIONS
//	badger-peer dump DIRECTORY
//
// "write" opens a store, runs random transactions, prints what Badger reads then, and ends without
// closing the store, so that its memtable log stays. "dump" opens a store and prints what is in it.
// Each line is a JSON object with key and value in hexadecimal and the version.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"strconv"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

type item struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Version uint64 `json:"version"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "badger-peer:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 4 && arguments[0] == "write":
		seed, err := strconv.ParseInt(arguments[2], 10, 64)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(arguments[3])
		if err != nil {
			return err
		}
		return write(arguments[1], seed, count)
	case len(arguments) == 2 && arguments[0] == "dump":
		db, err := open(arguments[1])
		if err != nil {
			return err
		}
		if err := dump(db); err != nil {
			return err
		}
		return db.Close()
	}
	return fmt.Errorf("usage: badger-peer write DIRECTORY SEED TRANSACTIONS | dump DIRECTORY")
}

// open uses the options that DittoFS uses on a small machine; the caches are as small as they can
// be.
func open(directory string) (*badger.DB, error) {
	return badger.Open(badger.DefaultOptions(directory).
		WithLoggingLevel(badger.ERROR).
		WithCompression(options.None).
		WithBlockCacheSize(1 << 20).
		WithIndexCacheSize(1 << 20).
		WithMemTableSize(32 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(4).
		WithNumCompactors(2))
}

func write(directory string, seed int64, count int) error {
	db, err := open(directory)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewSource(seed))
	for range count {
		if err := db.Update(func(txn *badger.Txn) error { return change(txn, random) }); err != nil {
			return err
		}
	}
	// The server writes in batches, too.
	batch := db.NewWriteBatch()
	for range 20 {
		if err := batch.Set(key(random), content(random)); err != nil {
			return err
		}
	}
	if err := batch.Flush(); err != nil {
		return err
	}
	if err := db.Sync(); err != nil {
		return err
	}
	// The process ends without Close: that would turn the log into a table.
	return dump(db)
}

// change makes a few random changes, most of them to keys that were written before.
func change(txn *badger.Txn, random *rand.Rand) error {
	for range 1 + random.Intn(5) {
		var err error
		if random.Intn(4) == 0 {
			err = txn.Delete(key(random))
		} else {
			err = txn.Set(key(random), content(random))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func key(random *rand.Rand) []byte {
	return fmt.Appendf(nil, "key/%x\xff\x00%s", random.Intn(200), make([]byte, random.Intn(3)))
}

func content(random *rand.Rand) []byte {
	sizes := []int{0, 1, 20, 127, 128, 300, 20_000}
	value := make([]byte, sizes[random.Intn(len(sizes))])
	random.Read(value)
	return value
}

func dump(db *badger.DB) error {
	out := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(out)
	err := db.View(func(txn *badger.Txn) error {
		iterator := txn.NewIterator(badger.DefaultIteratorOptions)
		defer iterator.Close()
		for iterator.Rewind(); iterator.Valid(); iterator.Next() {
			entry := iterator.Item()
			err := entry.Value(func(value []byte) error {
				return lines.Encode(item{
					Key:     hex.EncodeToString(entry.Key()),
					Value:   hex.EncodeToString(value),
					Version: entry.Version(),
				})
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}
