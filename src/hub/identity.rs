//! What makes this hub this hub: its uid in the store, and the way in for its first admin.

use std::{fs, io, path::Path, sync::Arc};

use anyhow::Context;
use serde::Deserialize;

use super::{
    auth,
    pki::{self, Pki, write_durably},
};
use crate::{
    model::{Timestamp, Uid},
    store::{Compare, Key, Outcome, Store, Transaction},
};

const ADMIN: &str = "admin";

/// Chosen at first start, and the same for all replicas on one store.
pub async fn hub_uid(store: &dyn Store) -> anyhow::Result<Uid> {
    let key = Key::new("/hanse/internal/uid");
    loop {
        if let Some(entry) = store.get(&key).await? {
            let text = String::from_utf8(entry.value.to_vec()).context("the hub's uid in the store is damaged")?;
            return Ok(Uid(text));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let mut transaction = Transaction::put(key.clone(), uid.clone().into());
        transaction.compares.push(Compare::Absent(key.clone()));
        if let Outcome::Committed(_) = store.commit(transaction).await? {
            return Ok(Uid(uid));
        }
    }
}

/// The key under which resume tokens are made. Outside the store, so that a restored store does not bring it.
pub fn resume_key(path: &Path) -> anyhow::Result<Arc<[u8]>> {
    use ring::rand::SecureRandom;
    match fs::read(path) {
        Ok(key) if key.len() == 32 => return Ok(key.into()),
        Ok(key) => anyhow::bail!("{} holds {} bytes, not 32", path.display(), key.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let mut key = [0; 32];
    let filled = ring::rand::SystemRandom::new().fill(&mut key);
    filled.map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    write_durably(path, &key, 0o600)?;
    Ok(Arc::new(key))
}

/// Writes `admin.kubeconfig` at first start; again where it names another address or authority, or is about to expire.
pub fn ensure_kubeconfig(pki: &Pki, path: &Path, url: &str, now: Timestamp) -> anyhow::Result<()> {
    match fs::read_to_string(path) {
        Ok(text) if is_current(&text, pki, url, now) => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let credentials = pki.sign_person(ADMIN, &[auth::ADMIN_GROUP], pki::ADMIN_LIFETIME, now)?;
    write_durably(path, pki.kubeconfig(url, ADMIN, &credentials).as_bytes(), 0o600)?;
    Ok(())
}

fn is_current(text: &str, pki: &Pki, url: &str, now: Timestamp) -> bool {
    let Ok(found) = serde_saphyr::from_str::<Kubeconfig>(text) else { return false };
    let (Some(cluster), Some(user)) = (found.clusters.first(), found.users.first()) else { return false };
    let certificate = pki::decode_pem(&user.user.certificate).and_then(|pem| pki::not_after(&pem));
    let lasts = certificate.is_some_and(|end| end > now.plus_seconds(pki::ADMIN_LIFETIME.as_secs() as i64 / 3));
    cluster.cluster.server == url && cluster.cluster.authority == pki::encode_pem(&pki.serving.pem) && lasts
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Server,
}

#[derive(Deserialize)]
struct Server {
    server: String,
    #[serde(rename = "certificate-authority-data", default)]
    authority: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    #[serde(rename = "client-certificate-data", default)]
    certificate: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_is_kept_while_it_is_good_and_written_again_when_it_is_not() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("admin.kubeconfig");
        let now = Timestamp::from_seconds(1_800_000_000);
        let pki = Pki::open(&directory.path().join("pki"), now).expect("authorities");
        let write = |url: &str, now| {
            ensure_kubeconfig(&pki, &path, url, now).expect("kubeconfig");
            fs::read_to_string(&path).expect("kubeconfig")
        };
        let first = write("https://a:1", now);
        assert_eq!(write("https://a:1", now.plus_seconds(3600)), first);
        let moved = write("https://a:2", now);
        assert_ne!(moved, first);
        assert!(moved.contains("server: https://a:2\n"));
        assert_ne!(write("https://a:2", now.plus_seconds(300 * 86_400)), moved, "its last months have begun");
    }
}
