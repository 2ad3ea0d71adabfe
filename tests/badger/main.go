// Program badger-peer is the real Badger for the tests of src/agent.
//
//	badger-peer write DIRECTORY SEED TRANSACTIONS
//	badger-peer busy DIRECTORY SEED TRANSACTIONS
//	badger-peer drop DIRECTORY SEED TRANSACTIONS
//	badger-peer collect DIRECTORY SEED ROUNDS
//	badger-peer serve DIRECTORY SEED TRANSACTIONS
//	badger-peer dump DIRECTORY
//	badger-peer digest DIRECTORY
//
// "write" opens a store, runs random transactions, prints what Badger reads then, and ends without
// closing the store, so that its memtable log stays. "busy" does the same with memtables so small
// that they are flushed all the time, and with values for the value log. "drop" drops all data
// before it writes. "collect" writes large values and lets Badger collect the garbage of the value
// log. "serve" writes until SIGTERM, and then closes the store. "dump" opens a store, lets Badger check it, prints what is in it, and closes it; "digest"
// prints the number of keys and a checksum of them instead.
//
// Each line is a JSON object with key and value in hexadecimal and the version.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"strconv"
	"syscall"

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
	if len(arguments) == 2 {
		switch arguments[0] {
		case "dump":
			return look(arguments[1], dump)
		case "digest":
			return look(arguments[1], digest)
		}
	}
	if len(arguments) == 4 {
		seed, err := strconv.ParseInt(arguments[2], 10, 64)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(arguments[3])
		if err != nil {
			return err
		}
		random := rand.New(rand.NewSource(seed))
		switch arguments[0] {
		case "write":
			return write(arguments[1], random, count)
		case "busy":
			return busy(arguments[1], random, count)
		case "drop":
			return drop(arguments[1], random, count)
		case "collect":
			return collect(arguments[1], random, count)
		case "serve":
			return serve(arguments[1], random, count)
		}
	}
	return fmt.Errorf("usage: badger-peer write|busy|drop|collect|serve DIRECTORY SEED COUNT, or dump|digest DIRECTORY")
}

// settings are the options that DittoFS uses on a small machine; the caches are as small as they
// can be, and tables and levels so small that there are many before a store has much in it. They
// are the same for all that open a store: where the size of a level changes, Badger 4.5 may
// compact into one that is below older data, and what was deleted is back.
func settings(directory string) badger.Options {
	return badger.DefaultOptions(directory).
		WithLoggingLevel(badger.ERROR).
		WithCompression(options.None).
		WithBlockCacheSize(1 << 20).
		WithIndexCacheSize(1 << 20).
		WithMemTableSize(32 << 20).
		WithBaseTableSize(1 << 20).
		WithBaseLevelSize(4 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(4).
		WithNumCompactors(2)
}

// small are options with which memtables are flushed all the time.
func small(directory string) badger.Options {
	return settings(directory).WithMemTableSize(8 << 20)
}

func look(directory string, how func(*badger.DB) error) error {
	db, err := badger.Open(settings(directory))
	if err != nil {
		return err
	}
	if err := db.VerifyChecksum(); err != nil {
		return err
	}
	if err := how(db); err != nil {
		return err
	}
	return db.Close()
}

func write(directory string, random *rand.Rand, count int) error {
	db, err := badger.Open(settings(directory))
	if err != nil {
		return err
	}
	return fill(db, random, count)
}

func drop(directory string, random *rand.Rand, count int) error {
	db, err := badger.Open(settings(directory))
	if err != nil {
		return err
	}
	if err := db.DropAll(); err != nil {
		return err
	}
	return fill(db, random, count)
}

func fill(db *badger.DB, random *rand.Rand, count int) error {
	for range count {
		if err := db.Update(func(txn *badger.Txn) error { return change(txn, random) }); err != nil {
			return err
		}
	}
	if err := batch(db, random); err != nil {
		return err
	}
	if err := db.Sync(); err != nil {
		return err
	}
	// The process ends without Close: that would turn the log into a table.
	return dump(db)
}

// batch writes as the server does, too.
func batch(db *badger.DB, random *rand.Rand) error {
	batch := db.NewWriteBatch()
	for range 20 {
		if err := batch.Set(key(random), content(random)); err != nil {
			return err
		}
	}
	return batch.Flush()
}

// busy writes keys that stay as they are, then random ones.
func busy(directory string, random *rand.Rand, count int) error {
	db, err := badger.Open(small(directory))
	if err != nil {
		return err
	}
	err = db.Update(func(txn *badger.Txn) error {
		for number := range 50 {
			name := fmt.Appendf(nil, "fixed/%02d", number)
			if _, err := txn.Get(name); !errors.Is(err, badger.ErrKeyNotFound) {
				return err
			}
			if err := txn.Set(name, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for number := range count {
		err := db.Update(func(txn *badger.Txn) error {
			if number%40 == 7 {
				return large(txn, random)
			}
			if number%3 == 0 {
				name := fmt.Appendf(nil, "bulk/%d", random.Intn(10))
				return txn.Set(name, make([]byte, 100_000+random.Intn(100_000)))
			}
			return change(txn, random)
		})
		if err != nil {
			return err
		}
		if number%50 == 0 {
			if err := batch(db, random); err != nil {
				return err
			}
		}
	}
	return dump(db)
}

// large makes or removes a value that goes to the value log, and makes a small one with it.
func large(txn *badger.Txn, random *rand.Rand) error {
	name := fmt.Appendf(nil, "large/%d", random.Intn(5))
	if err := txn.Set(append(name, '/'), content(random)); err != nil {
		return err
	}
	if random.Intn(5) == 0 {
		return txn.Delete(name)
	}
	value := make([]byte, 1<<20+random.Intn(200_000))
	random.Read(value[:1000])
	return txn.Set(name, value)
}

// collect overwrites large values, compacts the tables, so that Badger knows what of the value log
// is garbage, and has that removed. At the end the log has what was moved.
func collect(directory string, random *rand.Rand, rounds int) error {
	for range rounds {
		db, err := badger.Open(small(directory).WithValueLogFileSize(4 << 20))
		if err != nil {
			return err
		}
		for range 20 {
			if err := db.Update(func(txn *badger.Txn) error { return large(txn, random) }); err != nil {
				return err
			}
		}
		if err := db.Close(); err != nil {
			return err
		}
	}
	db, err := badger.Open(small(directory).WithValueLogFileSize(4 << 20))
	if err != nil {
		return err
	}
	if err := db.Flatten(1); err != nil {
		return err
	}
	for err == nil {
		err = db.RunValueLogGC(0.01)
	}
	if !errors.Is(err, badger.ErrNoRewrite) {
		return err
	}
	return dump(db)
}

// serve writes as a server does that is stopped in good order in the middle of its work. Some
// transactions only delete: compacting forgets their versions, also that of the last one.
func serve(directory string, random *rand.Rand, count int) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	db, err := badger.Open(settings(directory))
	if err != nil {
		return err
	}
	for number := 0; number < count && len(stop) == 0; number++ {
		err := db.Update(func(txn *badger.Txn) error {
			switch random.Intn(100) {
			case 0:
				return large(txn, random)
			case 1, 2, 3, 4, 5:
				return txn.Delete(key(random))
			default:
				return change(txn, random)
			}
		})
		if err != nil {
			return err
		}
	}
	return db.Close()
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
	err := each(db, func(key, value []byte, version uint64) error {
		return lines.Encode(item{hex.EncodeToString(key), hex.EncodeToString(value), version})
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

func digest(db *badger.DB) error {
	sum, count := sha256.New(), 0
	err := each(db, func(key, value []byte, version uint64) error {
		count++
		var head [16]byte
		binary.BigEndian.PutUint64(head[:], version)
		binary.BigEndian.PutUint32(head[8:], uint32(len(key)))
		binary.BigEndian.PutUint32(head[12:], uint32(len(value)))
		sum.Write(head[:])
		sum.Write(key)
		sum.Write(value)
		return nil
	})
	fmt.Printf("%d %x\n", count, sum.Sum(nil))
	return err
}

func each(db *badger.DB, visit func(key, value []byte, version uint64) error) error {
	return db.View(func(txn *badger.Txn) error {
		iterator := txn.NewIterator(badger.DefaultIteratorOptions)
		defer iterator.Close()
		for iterator.Rewind(); iterator.Valid(); iterator.Next() {
			entry := iterator.Item()
			err := entry.Value(func(value []byte) error {
				return visit(entry.Key(), value, entry.Version())
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
