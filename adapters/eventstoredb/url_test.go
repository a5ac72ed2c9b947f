package eventstoredb_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func TestParseURL(t *testing.T) {
	for name, c := range map[string]struct{ url, refused string }{
		"one node":                   {"esdb://localhost:2113?tls=false", ""},
		"credentials over TLS":       {"esdb://admin:changeit@localhost:2113", ""},
		"a cluster":                  {"esdb://admin:changeit@a:2113,b:2113,c:2113?gossipTimeout=3&keepAliveInterval=10000", ""},
		"discovery":                  {"esdb+discover://admin:changeit@db.example:2113", ""},
		"the leader":                 {"esdb://localhost?nodePreference=Leader", ""},
		"a prefix":                   {"esdb://localhost?streamPrefix=eu1-", ""},
		"credentials in plain text":  {"esdb://admin:secret@localhost:2113?tls=false", "plain text"},
		"upper case":                 {"esdb://admin:secret@localhost:2113?TLS=FALSE", "plain text"},
		"a cluster in plain text":    {"esdb://admin:secret@a,b,c?tls=false", "plain text"},
		"another scheme":             {"kurrentdb://localhost", "esdb://"},
		"an unknown setting":         {"esdb://localhost?connectionName=x", "connectionName"},
		"a deadline that is no time": {"esdb://localhost?defaultDeadline=10s", "milliseconds"},
		"followers":                  {"esdb://localhost?nodePreference=follower", "leader"},
		"tls that is no boolean":     {"esdb://localhost?tls=perhaps", "true or false"},
		"half a certificate":         {"esdb://localhost?userCertFile=/x", "userKeyFile"},
		"no such certificate":        {"esdb://localhost?tlsCaFile=/does/not/exist", "no such file"},
		"a system prefix":            {"esdb://localhost?streamPrefix=$x", "streamPrefix"},
		"no prefix":                  {"esdb://localhost?streamPrefix=", "streamPrefix"},
		"a setting twice":            {"esdb://localhost?tls=true&TLS=false", "twice"},
		"no host":                    {"esdb://", "host"},
		"a bad host":                 {"esdb://admin:secret@local%zzhost", "read"},
	} {
		t.Run(name, func(t *testing.T) {
			config, prefix, err := eventstoredb.ParseURL(c.url)
			if c.refused == "" {
				require.NoError(t, err)
				require.NotEmpty(t, prefix)
				require.Greater(t, config.MaxDiscoverAttempts, 1_000_000, "a client that gives up is dead")
				return
			}
			require.ErrorIs(t, err, eventstoredb.ErrURL)
			require.ErrorContains(t, err, c.refused)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

// certificate makes one for this machine, and writes it where a client can read it.
func certificate(t *testing.T) (server tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	file = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestCredentialsOverTLS(t *testing.T) {
	cert, file := certificate(t)
	cluster := esdbtest.NewSecure(t, 1, credentials.NewServerTLSFromCert(&cert), "admin", "changeit")
	url := func(user string) string {
		return "esdb://" + user + cluster.Nodes[0].Address() + "?tlsCaFile=" + file
	}
	log := open(t, eventstoredb.Config{URL: url("admin:changeit@")})
	r := add(t.Context(), log, one("usage-1", -1, "a"))
	require.Equal(t, eventstore.Appended, r.Outcome, r.Err)
	require.NoError(t, log.State())
	for _, user := range []string{"", "admin:wrong@"} {
		_, err := eventstoredb.Open(t.Context(), eventstoredb.Config{URL: url(user)})
		require.ErrorIs(t, err, eventstore.ErrUnavailable)
		require.ErrorContains(t, err, "does not accept the credentials")
		require.NotContains(t, err.Error(), "wrong@")
	}
	// A client that does not know the certificate gets nowhere, and says why.
	_, err := eventstoredb.Open(t.Context(), eventstoredb.Config{
		URL: strings.Replace(url("admin:changeit@"), "?tlsCaFile="+file, "?maxDiscoverAttempts=1", 1), Attempt: time.Second, Retry: time.Second,
	})
	require.ErrorIs(t, err, eventstore.ErrUnavailable)
	require.ErrorContains(t, err, "certificate")
}
