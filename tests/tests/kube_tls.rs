//! In our image there are no certificate authorities but the service account's. A test program of
//! its own: it changes its environment.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use millrace::source::kube::{KubeConfig, client};

/// A certificate that signs itself, as PEM.
fn authority() -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    Ok(rcgen::CertificateParams::new(vec!["kubernetes".into()])?.self_signed(&key)?.pem())
}

#[tokio::test]
async fn a_system_without_certificate_authorities_will_do() -> Result<()> {
    // SAFETY: the only test of this program, which has started nothing yet that reads these.
    unsafe {
        std::env::set_var("SSL_CERT_FILE", "/dev/null");
        std::env::set_var("SSL_CERT_DIR", "/nowhere");
    }
    let account = std::env::temp_dir().join(format!("millrace-tls-{}", std::process::id()));
    fs::create_dir_all(&account)?;
    let with = |url| {
        let service_account = account.clone();
        KubeConfig { service_account, ..KubeConfig::from_url(url, "n1") }
    };
    client(&with("http://127.0.0.1:8080")).await.context("nothing to be trusted")?;
    let nobody =
        client(&with("https://127.0.0.1:6443")).await.err().context("whom does it trust")?;
    ensure!(format!("{nobody:#}").contains("check its CA"), "{nobody:#}");
    fs::write(account.join("ca.crt"), authority()?)?;
    client(&with("https://127.0.0.1:6443")).await.context("the service account's")?;
    fs::write(account.join("ca.crt"), "no certificate")?;
    let bad = client(&with("https://127.0.0.1:6443")).await;
    ensure!(bad.is_err(), "a file without certificates is trusted");
    fs::remove_dir_all(&account)?;
    Ok(())
}
